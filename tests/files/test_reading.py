"""The one door for files: bounded, UTF-8, checked against a schema, and answered in one sentence."""

import gzip
import io
import json
import os
import pathlib
import zipfile

import mutations
import numpy as np
import pytest

from jnas.errors import UserError
from jnas.files import reading, schemas

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run-0.5.0"
NETWORK = json.loads((GOLDEN / "train/found/network.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_classes": "3"}, "field num_classes is '3'; expected a whole number"),
        ({"num_classes": 10**9}, "field num_classes is 1000000000; expected a number of at most 65536"),
        ({"num_classes": None}, "field num_classes is None; expected a whole number"),
        ({"shape": [8, 8, 10**9]}, "field shape.2 is 1000000000; expected a number of at most 65536"),
        ({"shape": [8, 8]}, r"field shape is \[8, 8\]; expected at least 3 entries"),
        ({"std": [0.0]}, "field std.0 is 0.0; expected a number above 0"),
        ({"mean": [float("nan")]}, "field mean.0 is nan; expected a number of at"),
        ({"mean": [10**400]}, "field mean.0 is 1000.*; expected a finite number"),
        ({"genotype": ["a"]}, r"field genotype is \['a'\]; expected text"),
        ({"training": []}, r"field training is \[\]; expected a mapping"),
        ({"training": {"depth": 10**9}}, "field training.depth is 1000000000; expected a number of at most 256"),
        ({"class_names": [1]}, "field class_names.0 is 1; expected text"),
    ],
)
def test_a_field_of_another_kind_is_named_with_its_value_and_what_is_expected(tmp_path, change, said):
    path = tmp_path / "network.json"
    path.write_text(json.dumps(NETWORK | change), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}: {said}.*: restore the file, or delete it and make it again$"):
        reading.json_of(path)


@pytest.mark.parametrize("field", ["genotype", "space", "num_classes", "shape", "mean", "std"])
def test_a_missing_field_is_named(tmp_path, field):
    path = tmp_path / "network.json"
    path.write_text(json.dumps({name: value for name, value in NETWORK.items() if name != field}), encoding="utf-8")
    with pytest.raises(UserError, match=f"field {field} is missing; expected what jnas writes there"):
        reading.json_of(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"is damaged \(Expecting value"),
        (b"[]", r"the content is \[\]; expected a mapping"),
        (b"null", "the content is None; expected a mapping"),
        (10_000 * b"[" + 10_000 * b"]", "is nested too deeply"),
        (b'{"a": ' + 100 * b"[" + 100 * b"]" + b"}", "is nested too deeply"),
        (b'{"a": "\xff"}', r"is no text \(byte 7 is not UTF-8\)"),
        (rb'{"a": "\ud800"}', "is damaged .*surrogates not allowed"),
        (rb'{"\ud800": 1}', "is damaged .*surrogates not allowed"),
        (b'{"a": ' + 5_000 * b"9" + b"}", "is damaged"),
    ],
)
def test_what_is_no_json_of_a_run_is_said(tmp_path, content, said):
    path = tmp_path / "any.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        reading.json_of(path)


@pytest.mark.parametrize(
    "content", [b"a: &a [x]\nb: *a", b"a: 2001-99-99", b"\xff", b"a: !!int x", b"- 1", 3000 * b"["]
)
def test_what_is_no_yaml_of_a_run_is_said(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml (is|holds) "):
        reading.yaml_of(tmp_path / "config.yaml", typed=True)


def test_files_are_bounded_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "any.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no place
    with pytest.raises(UserError, match="is longer than 67,108,864 characters"):
        reading.json_of(path)
    monkeypatch.setattr(reading, "LONGEST_LINE", 2**10)
    path.write_text('{"step": 1}\n{"step": 2, "a": "' + "b" * 2**11 + '"}\n{"step": 3}\n', encoding="utf-8")
    assert reading.lines_of(path, schemas.Step) == ([{"step": 1}, {"step": 3}], 3)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("start", [b"", b"model,accuracy\n"])
def test_an_endless_line_of_a_table_is_not_read_to_its_end(tmp_path, monkeypatch, name, start):
    monkeypatch.setattr(reading, "LONGEST_LINE", 2**10)
    plain = start + b"1," * 2**20
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain) if name.endswith("gz") else plain)
    sentence = "has a line of 1,024 characters or more: write it in shorter ones"
    with pytest.raises(UserError, match=sentence), reading.table_of(path) as reader:
        list(reader)
    path = tmp_path / "b.csv"
    path.write_text('model,accuracy\n"a\nb",1\n', encoding="utf-8")
    with reading.table_of(path) as reader:
        assert list(reader) == [{"model": "a\nb", "accuracy": "1"}]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(UserError, match=f"{name} is no file"):
            reading.json_of(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is no file"):
            reading.arrays_of(tmp_path / name, ["a"])


def an_archive(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "member",
    [
        mutations.with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 2000), }"),  # 58 TiB
        mutations.with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        mutations.with_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"),
        mutations.with_header(b"{'descr': " + 3000 * b"[" + 3000 * b"]" + b"}"),
        mutations.with_header(5000 * b"("),
        mutations.with_header(b"\xff"),
        mutations.saved(np.arange(4))[:-1],
        b"no array",
        b"",
    ],
)
def test_a_member_that_is_no_array_as_it_says_takes_no_memory(tmp_path, member):
    path = an_archive(tmp_path / "a.npz", a=member, b=mutations.saved(np.arange(3)))
    with pytest.raises(ValueError, match=r"."):
        reading.arrays_of(path, ["a"])
    assert reading.arrays_of(path, ["b"])["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("mark", ["encrypted", "method", "lzma", "cut off"])
def test_odd_and_damaged_archives_are_no_traceback(tmp_path, mark):
    method = zipfile.ZIP_LZMA if mark == "lzma" else zipfile.ZIP_STORED
    path = an_archive(tmp_path / "a.npz", method, a=mutations.saved(np.arange(1000) % 7))
    content = bytearray(path.read_bytes())
    if mark == "lzma":
        content[len(content) // 3] ^= 255
    elif mark == "cut off":
        del content[-40:]
    else:
        for start, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            content[content.find(start) + at + 2 * (mark == "method")] = 1 if mark == "encrypted" else 99
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^(?!.*(BadZip|Error))."):  # in words, not by the names of exceptions
        reading.arrays_of(path, ["a"])


def test_arrays_larger_than_asked_for_are_refused_by_their_claim(tmp_path):
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(2**20))
    (tmp_path / "a.npz").write_bytes(file.getvalue())
    with pytest.raises(UserError, match=r"a.npz has arrays of 8,388,736 bytes and 1,000 can be read: leave some out"):
        reading.arrays_of(tmp_path / "a.npz", ["a"], most=1000)
    with pytest.raises(KeyError, match="b"):
        reading.arrays_of(tmp_path / "a.npz", ["a", "b"])
