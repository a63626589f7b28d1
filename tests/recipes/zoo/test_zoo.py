"""The zoo: two writers lose nothing, nothing damaged gets through, limits agree with a loop over the table."""

import json
import os
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pytest

from jnas.cli.main import main
from jnas.errors import UserError
from jnas.recipes.zoo import candidates
from jnas.recipes.zoo import entries as zoo
from jnas.recipes.zoo.candidates import Candidate, Cost, Limits
from jnas.recipes.zoo.place import Remote

FACTS = {
    "accuracy": 0.5, "parameters": 1000, "flops": 2e6, "shape": [7, 7, 1], "data": "tiny", "genotype": "g",
    "licence": "MIT",
}  # fmt: skip
FILES = {"network.json": b"{}", "weights.npz": b"0123456789" * 100}

WRITER = """
import sys
from jnas.errors import UserError
from jnas.recipes.zoo import entries as zoo
folder, who = sys.argv[1:]
for number in range(40):
    zoo.add(folder, "networks", f"{who}-{number}", {"by": who}, {"weights.npz": f"{who}{number}".encode()})
    zoo.note(folder, "records", "", facts={"by": who, "number": number})
    try:
        if zoo.add(folder, "networks", f"both-{number}", {"by": who}, {"weights.npz": who.encode()}):
            print(number)
    except UserError as error:
        assert "another entry" in str(error), error
"""


def test_two_writers_lose_nothing(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), who], stdout=subprocess.PIPE, text=True)
        for who in "ab"
    ]
    won = [set(map(int, writer.communicate(timeout=300)[0].split())) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert won[0] | won[1] == set(range(40))  # of two with one name exactly one got in, and the other was told
    assert not won[0] & won[1]
    entries, complaints = zoo.scan(tmp_path, zoo.NETWORKS)
    assert not complaints
    assert len(entries) == 120
    for facts, files in entries:
        if facts["name"].startswith("both"):
            assert int(facts["name"].split("-")[1]) in won["ab".index(facts["by"])]
            assert files["weights.npz"] == facts["by"].encode()
    assert len(zoo.notes(tmp_path, zoo.RECORDS)[0]) == 80
    assert not list((tmp_path / "networks").glob(".*"))


@pytest.fixture
def folder(tmp_path):
    for name in ("good", "other"):
        assert zoo.add(tmp_path, zoo.NETWORKS, name, {**FACTS, "added": name}, FILES)
    return tmp_path


DAMAGE = {
    "truncated": ("weights.npz", lambda content: content[:-1]),
    "tampered": ("weights.npz", lambda content: b"1" + content[1:]),
    "accuracy raised": ("entry.json", lambda content: content.replace(b"0.5", b"0.9")),
    "entry truncated": ("entry.json", lambda content: content[:20]),
    "no text": ("entry.json", lambda content: b"\xff\x00"),
    "a list": ("entry.json", lambda content: b"[1]"),
    "missing": ("network.json", None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name_and_left_out(folder, damage, capsys):
    file, change = DAMAGE[damage]
    path = folder / "networks" / "good" / file
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="good"):
        zoo.read(folder, zoo.NETWORKS, "good")
    assert main(["zoo", "show", str(folder), "good"]) == 2
    assert main(["zoo", "list", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["other"]
    assert "good" in err.splitlines()[-1]
    zoo.remove(folder, "good")
    assert zoo.names(folder, zoo.NETWORKS) == ["other"]


MALFORMED = [
    ("networks/good/entry.json", {"accuracy": "0.5"}, "field accuracy is '0.5'; expected a finite number"),
    ("networks/good/entry.json", {"shape": None}, "field shape is None; expected a list"),
    ("networks/good/entry.json", {"parameters": 10**18}, "field parameters is 1000000000000000000; expected a number"),
    ("networks/good/entry.json", {"sha256": [1]}, "field sha256 is [1]; expected a mapping"),
    ("costs/other/a.json", {"kind": 3}, "field kind is 3; expected text"),
    ("costs/other/a.json", {"seconds": None}, "field seconds is None; expected a finite number"),
]


@pytest.mark.parametrize(("file", "change", "said"), MALFORMED)
def test_what_is_sealed_and_malformed_is_named_and_spoils_no_other_entry(folder, file, change, said, capsys):
    sums = zoo.read(folder, zoo.NETWORKS, "other")[0]["sha256"]
    cost = Cost("slate", "inference", 1, 0.25, 4.0)._asdict()
    zoo.note(folder, zoo.COSTS, "other", "a", facts={**cost, "sha256": sums["weights.npz"]})
    facts = zoo.unsealed(folder / file)
    (folder / file).write_text(zoo.sealed({**facts, **change}), encoding="utf-8")
    assert main(["zoo", "list", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    names = [json.loads(line)["name"] for line in out.splitlines()]
    assert names == (["other"] if "good" in file else ["good", "other"])
    assert f"{folder / file}: {said}" in err


def test_a_malformed_line_of_a_table_is_named_and_spoils_no_network(folder, capsys):
    lines = b'{"name": "a", "costs": []}\n{"name": "b", "costs": [["slate", 3, 1, 0.1, 9.0]]}\n'
    zoo.add(folder, zoo.TABLES, "theirs", {}, {"models.jsonl": lines})
    assert main(["zoo", "list", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["good", "other"]
    assert "models.jsonl:2: field 0.kind is 3; expected text" in err


@pytest.mark.parametrize("name", ["../networks/good", "/etc", "good/../other", "", "a\x1b[2J"])
def test_a_name_that_is_a_path_is_no_entry(folder, name, capsys):
    assert main(["zoo", "show", str(folder), name]) == 2
    assert "is no name for an entry" in capsys.readouterr().err


def test_a_moved_entry_is_refused(folder):
    (folder / "networks" / "good").rename(folder / "networks" / "better")
    with pytest.raises(UserError, match="belongs to the entry 'good'"):
        zoo.read(folder, zoo.NETWORKS, "better")


def test_a_file_outside_is_refused(folder):
    entry = folder / "networks" / "good" / "entry.json"
    facts = zoo.unsealed(entry)
    entry.write_text(zoo.sealed({**facts, "sha256": {"../other/weights.npz": "0"}}))
    with pytest.raises(UserError, match="outside"):
        zoo.read(folder, zoo.NETWORKS, "good")


def test_adding_again(folder):
    assert not zoo.add(folder, zoo.NETWORKS, "good", FACTS, FILES)
    with pytest.raises(UserError, match="another entry 'good'"):
        zoo.add(folder, zoo.NETWORKS, "good", FACTS, {**FILES, "network.json": b"[]"})
    for name in ("", "../good", ".good", "a/b", "x" * 101):
        with pytest.raises(UserError, match="is no name"):
            zoo.add(folder, zoo.NETWORKS, name, FACTS, FILES)
    with pytest.raises(UserError, match="no entry 'gone'"):
        zoo.remove(folder, "gone")


def test_costs_of_other_weights_do_not_count(folder):
    facts, _ = zoo.read(folder, zoo.NETWORKS, "good")
    cost = Cost("slate", "inference", 1, 0.25, 4.0)._asdict()
    zoo.note(folder, zoo.COSTS, "good", "a", facts={**cost, "sha256": facts["sha256"]["weights.npz"]})
    zoo.note(folder, zoo.COSTS, "good", "b", facts={**cost, "seconds": 0.1, "sha256": "of older weights"})
    found, _ = candidates.of_zoo(folder)
    assert candidates.latency(found[0], "slate") == 0.25
    assert candidates.latency(found[0], "chalk") is None


@pytest.fixture
def remote(folder):
    """The same zoo behind a URL."""
    cost = Cost("slate", "inference", 1, 0.25, 4.0)._asdict()
    facts, _ = zoo.read(folder, zoo.NETWORKS, "good")
    zoo.note(folder, zoo.COSTS, "good", "a", facts={**cost, "sha256": facts["sha256"]["weights.npz"]})
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/bucket/zoo/{path.relative_to(folder).as_posix()}", path.read_bytes())
    yield "memory://bucket/zoo"
    memory.rm("/bucket", recursive=True)


def test_a_zoo_behind_a_url_is_read(folder, remote, tmp_path, capsys):
    assert zoo.read(remote, zoo.NETWORKS, "good") == zoo.read(folder, zoo.NETWORKS, "good")
    assert candidates.of_zoo(remote) == candidates.of_zoo(folder)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    for place in (remote, f"zip://::file://{archive}", folder.as_uri(), f"{remote}/"):
        assert main(["zoo", "list", place, "--json", "--max-latency", "250", "--device", "slate"]) == 0, place
        assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["good"]
        assert main(["zoo", "show", place, "good"]) == 0
        assert json.loads(capsys.readouterr().out)["costs"][0]["seconds"] == 0.25
    fsspec.filesystem("memory").pipe_file("/bucket/zoo/networks/good/weights.npz", b"0" * 1000)
    assert main(["zoo", "list", remote, "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["other"]
    assert "memory://bucket/zoo/networks/good/weights.npz has the SHA-256" in err


@pytest.mark.parametrize("declared", [None, 2**40])
def test_more_than_an_entry_may_have_is_not_taken_from_a_url(remote, monkeypatch, declared):
    memory, taken = fsspec.filesystem("memory"), []

    class Endless:
        size = declared

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, most):
            taken.append(most)
            return bytes(most)

    plain = type(memory).open
    endless = lambda system, path, *rest: Endless() if path.endswith(".npz") else plain(system, path, *rest)
    monkeypatch.setattr(type(memory), "open", endless)
    with pytest.raises(UserError, match=r"weights\.npz: it has more than 67,124,862 bytes"):
        zoo.read(remote, zoo.NETWORKS, "good")
    assert sum(taken) == (0 if declared else 4 * 65 * 2**20)  # it is tried four times


def test_a_zoo_behind_a_url_is_not_written(folder, remote, capsys):
    before = fsspec.filesystem("memory").find("/bucket")
    for write in (
        lambda: zoo.add(remote, zoo.NETWORKS, "new", FACTS, FILES),
        lambda: zoo.note(remote, zoo.RECORDS, "", facts={"a": 1}),
        lambda: zoo.remove(remote, "good"),
    ):
        with pytest.raises(UserError, match="memory://bucket/zoo can be read only"):
            write()
    assert fsspec.filesystem("memory").find("/bucket") == before
    assert main(["zoo", "measure", remote, "good"]) == 2
    assert "copy that there" in capsys.readouterr().err
    assert zoo.add(folder.as_uri(), zoo.NETWORKS, "new", FACTS, FILES)  # a folder, however it is named
    assert "new" in zoo.names(folder, zoo.NETWORKS)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nope://zoo", "cannot open nope://zoo: ValueError: Protocol not known: nope"),
        ("http://[x", "cannot open http://[x: ValueError: Invalid IPv6 URL"),
        ("memory://nothing", "memory://nothing is no folder"),
        ("zip://zoo::file:///nothing.zip", "cannot open zip://zoo::file:///nothing.zip"),
        ("ftp://ann:secret@localhost:1/zoo", "cannot open ftp://***@localhost:1/zoo"),
    ],
)
def test_bad_urls(url, sentence, capsys):
    assert main(["zoo", "list", url]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "secret" not in err
    assert len(err.splitlines()) == 1


RESULTS = """model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation
small.a_in1k,160,60.5,39.5,80,20,"1.23",1.0,bicubic
small.b_in1k,160,61.5,38.5,80,20,1.23,1.0,bicubic
small.a_in1k,224,65.5,34.5,80,20,1.23,1.0,bicubic
large,224,80.0,20.0,80,20,"1,004.5",1.0,bicubic
unmeasured.x,224,70.0,30.0,80,20,5.0,1.0,bicubic
"""
CPU = """model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts
small,160,700.1,1.456,1,1.23,0.04,0.48
small,224,350.2,2.9,1,1.23,0.08,0.9
large,224,3.1,330.0,1,1004.5,50.5,90
"""
TRAIN = """model,train_samples_per_sec,train_step_time,train_batch_size,train_img_size,param_count
small,1000.5,63.9,64,160,1.23
large,10.5,6000.0,64,224,1004.5
"""


@pytest.fixture
def tables(tmp_path):
    for name, text in (("results", RESULTS), ("cpu", CPU), ("train", TRAIN)):
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def listed(capsys, *words):
    status = main(["zoo", "list", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return status, [json.loads(line)["name"] for line in out.splitlines()], err


def test_tables_of_others_are_joined_and_filtered(tables, capsys):
    place = tables / "zoo"
    words = ["--benchmark", f"slate={tables / 'cpu.csv'}", "--benchmark", f"chalk={tables / 'train.csv'}"]
    assert main(["zoo", "add", str(place), str(tables / "results.csv"), "--name", "theirs", *words]) == 0
    assert capsys.readouterr().out == "added theirs: 5 models, 4 of them with measured times\n"
    on = [place, "--device", "slate"]
    all_five = ["large@224", "unmeasured.x@224", "small.a_in1k@224", "small.b_in1k@160", "small.a_in1k@160"]
    assert listed(capsys, *on)[1] == all_five
    assert listed(capsys, *on, "--max-params", "1.23")[1] == all_five[2:]
    assert listed(capsys, *on, "--max-latency", "1.456")[1] == all_five[3:]
    assert listed(capsys, *on, "--min-throughput", "350.2")[1] == all_five[2:]
    assert listed(capsys, *on, "--max-flops", "0.16")[1] == all_five[2:]
    assert listed(capsys, place, "--device", "chalk", "--min-training", "10.5")[1] == ["large@224", *all_five[3:]]
    impossible = {
        ("--max-latency", "1.4"): "the nearest is small.a_in1k@160, give --max-latency 1.456\n",
        ("--max-latency", "1.4", "--max-params", "2"): "and keeps the other limits: the nearest is small.a_in1k@160",
        ("--min-throughput", "800"): "no model has at least 800 images a second (--min-throughput): the nearest is "
        "small.b_in1k@160, give --min-throughput 700.1\n",
        ("--max-params", "1.2", "--max-latency", "1.4"): "nor all but one of them: alone the nearest are --max-params "
        "1.23 (small.a_in1k@160) and --max-latency 1.456 (small.a_in1k@160)\n",
        ("--min-training", "1"): "no model has training images a second measured on 'slate': give one of chalk, slate",
    }
    for limits, sentence in impossible.items():
        status, names, err = listed(capsys, *on, *limits)
        assert (status, names) == (2, [])
        assert sentence in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ("missing.csv", "cannot read"),
        ("cpu.csv", "has no number in column img_size for 'small'"),
    ],
)
def test_bad_tables(tables, results, sentence, capsys):
    assert main(["zoo", "add", str(tables / "zoo"), str(tables / results)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tables / "zoo").exists()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("", "has no row"),
        ("a,224,nan,5\n", "has no number in column top1"),
        ("a,224,80,inf\n", "in column param_count"),
        ("a,224,80,-5\n", "in column param_count for 'a': give a table with that column, from 0 to 9e"),
        ("a,224,801,5\n", "in column top1 for 'a': give a table with that column, from 0 to 100"),
        ('a,224,80,"25,5"\n', "in column param_count"),
        ("a,-224,80,5\n", "in column img_size"),
        ("a,1e17,80,5\n", "in column img_size"),
    ],
)
def test_tables_without_numbers(tmp_path, rows, sentence):
    (tmp_path / "results.csv").write_text("model,img_size,top1,param_count\n" + rows)
    with pytest.raises(UserError, match=sentence):
        candidates.read_tables(tmp_path / "results.csv", [])


def test_limits_agree_with_a_loop():
    """Random candidates and limits: the kept ones are right, and the value that the sentence names is the nearest."""
    random = np.random.default_rng(0)
    for _ in range(200):
        models = [
            Candidate(
                f"m{i}", "", 0.5, int(random.integers(1, 10**7)), float(random.uniform(1e6, 1e9)), 32,
                (Cost("d", "inference", 1, float(random.uniform(1e-3, 1)), float(random.uniform(1, 1e3))),),
            )
            for i in range(4)
        ]  # fmt: skip
        limits = Limits(float(random.uniform(0, 5e6)), None, float(random.uniform(0, 0.7)), None, None, "d")
        right = [m for m in models if m.parameters <= limits.parameters and m.costs[0].seconds <= limits.latency]
        if right:
            assert candidates.within(models, limits) == right
            continue
        with pytest.raises(UserError) as caught:
            candidates.within(models, limits)
        words = str(caught.value).split("give ")
        if "keeps the other limits" not in words[0]:
            assert "nor all but one" in words[0]
            continue
        option, value = words[1].split()
        relaxed = {"--max-params": "parameters", "--max-latency": "latency"}[option]
        bound = float(value) * {"parameters": 1e6, "latency": 1e-3}[relaxed]
        assert candidates.within(models, limits._replace(**{relaxed: bound}))
        with pytest.raises(UserError):
            candidates.within(models, limits._replace(**{relaxed: bound * (1 - 1e-5)}))


def test_memory_is_a_limit_that_what_does_not_know_it_does_not_keep():
    models = [Candidate(f"m{size}", "", 0.5, 1000, 1e6, 8, (), memory=size) for size in (None, 2e6, 3e6)]
    assert candidates.within(models, Limits(memory=2.5e6)) == models[1:2]
    with pytest.raises(
        UserError, match=r"at most 1 megabytes at work \(--max-memory\): the nearest is m2000000.0, give"
    ):
        candidates.within(models, Limits(memory=1e6))


def test_a_malformed_entry_is_named_and_left_out(folder, capsys):
    zoo.add(folder, zoo.NETWORKS, "bad", {**FACTS, "accuracy": "high"}, FILES)
    zoo.add(folder, zoo.NETWORKS, "bare", {"data": "tiny"}, FILES)
    zoo.add(folder, zoo.TABLES, "table", {}, {"models.jsonl": b"[1]\n"})
    zoo.add(folder, zoo.TABLES, "named", {}, {"models.jsonl": b'{"name": "a\\u001b[2J\\nb", "costs": []}\n'})
    assert main(["zoo", "list", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "3 of 3 models" in out
    assert "named/a\\u001b[2J\\nb" in out
    assert "\x1b" not in out
    lines = err.splitlines()
    assert len(lines) == 3
    for name in ("bad", "bare", "table"):
        assert any(f"/{name}/" in line and "; expected " in line for line in lines)


@pytest.mark.parametrize("name", ["../networks/good", "..", "a/b", "", "a\x1b[2J"])
@pytest.mark.parametrize("action", ["show", "remove", "measure"])
def test_a_name_of_an_entry_is_no_path(folder, action, name, capsys):
    assert main(["zoo", action, str(folder), name]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err
    assert zoo.names(folder, zoo.NETWORKS) == ["good", "other"]


def test_what_killed_writers_left_goes_with_the_next(folder):
    left = folder / "networks" / ".jnas-killed.tmp"
    left.mkdir()
    (left / "weights.npz").touch()
    zoo.add(folder, zoo.NETWORKS, "new", FACTS, FILES)
    assert sorted(path.name for path in (folder / "networks").iterdir()) == ["good", "new", "other"]
    left.mkdir()
    zoo.remove(folder, "new")
    assert sorted(path.name for path in (folder / "networks").iterdir()) == ["good", "other"]


def test_who_reads_while_an_entry_is_added_anew_reads_one_of_them(folder, monkeypatch):
    plain, again = zoo.read_entry, []

    def read_entry(place):
        facts = plain(place)
        if not again:  # between the entry and its files
            again.append(zoo.remove(folder, "good"))
            zoo.add(folder, zoo.NETWORKS, "good", FACTS, {"weights.npz": b"new"})
        return facts

    monkeypatch.setattr(zoo, "read_entry", read_entry)
    assert zoo.read(folder, zoo.NETWORKS, "good")[1] == {"weights.npz": b"new"}


def test_the_query_of_an_address_stays_behind_its_path():
    class System:
        asked: list[str] = []  # noqa: RUF012 - of the test

        def ls(self, path, detail):
            self.asked.append(path)
            return ["https://host/zoo/networks/one/?sig=abc"]

    zoo_folder = Remote(System(), "https://host/zoo?sig=abc", "https://host/zoo?sig=***")
    (entry,) = (zoo_folder / "networks").iterdir()
    assert System.asked == ["https://host/zoo/networks?sig=abc"]
    assert (entry.path, entry.name, str(entry)) == (
        "https://host/zoo/networks/one?sig=abc", "one", "https://host/zoo/networks/one?sig=***",
    )  # fmt: skip


def test_a_pipe_is_no_table_and_capitals_make_one(tables, capsys):
    os.mkfifo(tables / "pipe.csv")
    assert main(["zoo", "add", str(tables / "zoo"), str(tables / "pipe.csv")]) == 2
    assert "is no file" in capsys.readouterr().err
    (tables / "results.csv").rename(tables / "RESULTS.CSV")
    assert main(["zoo", "add", str(tables / "zoo"), str(tables / "RESULTS.CSV")]) == 0
    assert capsys.readouterr().out.startswith("added results: ")


@pytest.mark.parametrize(
    "words", [["list", "--top", "-1"], ["list", "--top", "0"], ["measure", "--batch", str(10**23)]]
)
def test_numbers_of_rows_and_images_have_bounds(tables, words, capsys):
    assert main(["zoo", words[0], str(tables), *words[1:]]) == 2
    assert f"{words[1]} is {words[2]}: give " in capsys.readouterr().err
