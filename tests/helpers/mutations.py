"""Seeded damage to files of JSON, JSON lines, YAML and `.npz`: dropped, retyped, enlarged, nested, cut off, flipped."""

import copy
import io
import json
import zipfile

import numpy as np

# Texts of JSON in place of a value.
ODD = (
    "null", "true", "0", "-1", "7", "0.5", "1e400", "NaN", "-Infinity", "1e39", "1" + 18 * "0", "-1" + 18 * "0",
    "1" + 9 * "0", "1" + 400 * "0", '"text"', '""', '"\\ud800"', '"../../etc/passwd"', '"/etc/passwd"', '"\\u0000"',
    '"\\u001b[2J\\n"', "[]", "{}", "[[]]", '{"a": {"b": null}}', "[1, 2, 3]", "[null]", 80 * "[" + 80 * "]",
    10_000 * "[" + 10_000 * "]", 5_000 * "9", '"' + 3_000 * "long" + '"',
)  # fmt: skip
MARK = "a place for odd text"


def places(value, path=()):
    """The path of every value inside a value of JSON."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def edited(value, random):
    """The text of a value of JSON in which one part is dropped, doubled or replaced by something odd."""
    value = copy.deepcopy(value)
    found = list(places(value))
    # The outer fields are few among many rows of numbers.
    path = random.choice(found if random.random() < 0.4 else [p for p in found if len(p) <= 2])
    if not path:
        return random.choice(ODD)
    place = value
    for key in path[:-1]:
        place = place[key]
    action = random.choice(("drop", "double", "odd", "odd", "odd"))
    if action == "drop":
        del place[path[-1]]
    elif action == "double" and isinstance(place, list):
        place += copy.deepcopy(place) * random.choice((1, 30))
    else:
        place[path[-1]] = MARK
    return json.dumps(value, ensure_ascii=False).replace(f'"{MARK}"', random.choice(ODD))


def torn(content, random):
    """Bytes that are cut off, flipped, empty, no UTF-8, or others altogether."""
    at = random.randrange(max(len(content), 1))
    return random.choice((
        lambda: content[:at],
        lambda: content[:at] + bytes([content[at] ^ 1 << random.randrange(8)] if content else b"") + content[at + 1 :],
        lambda: content[:at] + random.choice((b"\xff", b"\0", b"\xed\xa0\x80", b"[", b'"', b"\n")) + content[at:],
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + content,
        lambda: bytes(random.randrange(256) for _ in range(64)),
        lambda: random.choice(ODD).encode(),
        lambda: content + content,
    ))()  # fmt: skip


def damaged_json(content, random):
    """A file of JSON, damaged."""
    if random.random() < 0.25:
        return torn(content, random)
    return edited(json.loads(content), random).encode()


def damaged_lines(content, random):
    """A file of JSON lines, one of them damaged."""
    if random.random() < 0.25:
        return torn(content, random)
    lines = content.splitlines()
    at = random.randrange(len(lines))
    lines[at] = edited(json.loads(lines[at]), random).encode()
    return b"\n".join(lines) + b"\n"


def damaged_yaml(content, random):
    """A file of YAML, damaged; JSON is YAML."""
    import yaml

    return damaged_json(json.dumps(yaml.safe_load(content)).encode(), random) if random.random() < 0.7 else torn(
        content, random
    )  # fmt: skip


def damaged_archive(content, random):
    """An `.npz` file, damaged in its bytes or in one member."""
    if random.random() < 0.4:
        return torn(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random.choice(sorted(members))
    action = random.choice(("drop", "add", "retype", "reshape", "header", "no array", "method", "encrypted"))
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    if action == "drop":
        del members[name]
    elif action == "add":
        members["tree['params']['more'].npy"] = members[name]
    elif action in ("retype", "reshape"):
        array = np.load(io.BytesIO(members[name]))
        kind = "U9" if array.dtype.kind == "U" else random.choice(("f8", "i4", "U9", "c8", "V4"))
        array = array.astype(kind) if action == "retype" else array[None]
        members[name] = saved(array)
    elif action == "header":
        members[name] = with_header(random.choice((
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 2000), }",
            b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
            b"{'descr': " + 3000 * b"[" + 3000 * b"]" + b"}", b"(" * 5000, b"", b"\xff" * 90, b"{'descr': '<f8'}",
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        )))  # fmt: skip
    elif action == "no array":
        members[name] = random.choice((b"", b"no array", b"\x93NUMPY\x09\x09"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for one, body in members.items():
            archive.writestr(one, body)
    found = bytearray(file.getvalue())
    if action in ("method", "encrypted"):
        value = 1 if action == "encrypted" else random.choice((1, 9, 14, 99))
        for mark, where in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = found.find(mark)
            found[at + where + 2 * (action == "method")] = value
    if action == "add" and method == zipfile.ZIP_LZMA:
        found[len(found) // 3] ^= 255
    return bytes(found)


def saved(array):
    """An array as a member of an archive."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(header):
    """An array whose header is some text, and that has little behind it."""
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + 16 * b"\0"
