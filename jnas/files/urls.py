"""What comes from outside, as it may be shown and recorded: addresses without credentials, names on one line."""

import json
import re
import urllib.parse

# A password may hold blanks and, where nobody encoded it, "/", "?" and "@"; what follows the colon of a port does not.
_NO_PORT = r":(?!\d*(?:[/?#\s,;)'\"]|$))"
_URL = re.compile(rf"[a-z][\w+.-]*://(?:[^/?#@\s:]*{_NO_PORT}[^@\n]*@)?\S*", re.IGNORECASE)


def masked(text: str, known: str = "") -> str:
    """The text with the user information of its URLs, and every value of their queries, hidden.

    >>> masked("postgresql+psycopg://ann:se@cret@db:5432/trials?user=ann&sslmode=require")
    'postgresql+psycopg://***@db:5432/trials?user=***&sslmode=***'
    >>> masked("no https://TOKEN@host/zoo?sig=abc here")
    'no https://***@host/zoo?sig=*** here'

    Args:
      text: any.
      known: a URL, whose credentials are hidden wherever they stand in the text: drivers tell parts of them.
    """
    user, _, query = _split(known.partition("://")[2])
    values = [piece.partition("=")[2] for piece in re.split("[&#]", query)]
    parts = {form for part in (*re.split("[:@/]", user), *values) for form in (part, urllib.parse.unquote(part))}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "***") if len(part) > 2 else text
    return _URL.sub(lambda found: "::".join(map(_hidden, re.split("::(?=[a-zA-Z])", found[0]))), text)


def printable(text: str) -> str:
    r"""The text on one line of a terminal, whoever made it: what moves the cursor or the colour is spelled as in JSON.

    >>> print(printable("a\x1b[31m\nb"))
    a\u001b[31m\nb
    """
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _hidden(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    user, place, query = _split(rest)
    hidden = re.sub("[^?&#=]+(?=[&#]|$)", "***", re.sub("=[^&#]*", "=***", query))
    return f"{scheme}{mark}{'***@' if user else ''}{place}{hidden}"


def _split(rest: str) -> tuple[str, str, str]:
    """User information, host and path, and the query with its mark, of what stands behind `://`."""
    place = re.split("[?#]", rest, maxsplit=1)[0]
    query = rest[len(place) :]
    if "@" not in place and "@" in query and re.match(f"[^/:]*{_NO_PORT}", place):  # a mark within the password
        return rest, "", ""
    user, _, place = place.rpartition("@")
    return user, place, query
