"""Text of a user: checked before it becomes a name, and shortened before it is shown."""

from jnas.errors import UserError


def shortened(text: str) -> str:
    """The text as it may stand in a sentence.

    >>> shortened("mnist.npz"), shortened("x" * 5000)
    ('mnist.npz', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... (5,000 characters)')
    """
    return text if len(text) <= 120 else f"{text[:60]}... ({len(text):,} characters)"


def check_text(text: str, whose: str) -> None:
    """Refuses text that no UTF-8 file can hold, such as the name of a file of bytes in another encoding, or no path.

    Raises:
        UserError: It is none.
    """
    if "\0" in text:
        raise UserError(f"{whose} holds a NUL ({shortened(text)!r}): give another one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{whose} is no UTF-8 text ({shortened(text)!r}): give another one") from error
