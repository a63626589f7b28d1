import base64
import html
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import yaml

from jnas import spaces
from jnas.errors import Interrupted, UserError
from jnas.recipes.gradient.recipe import _rule
from jnas.report.page import render, write_report
from jnas.report.reading import read_run
from jnas.report.reference import reference_words

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(html.parser.HTMLParser):
    """Checks that tags are balanced and keeps them."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def parsed(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def images(reader: Reader) -> list[str]:
    prefix = "data:image/svg+xml;base64,"
    sources = [attrs["src"] for tag, attrs in reader.tags if tag == "img"]
    assert all(source.startswith(prefix) for source in sources)
    return [base64.b64decode(source.removeprefix(prefix)).decode() for source in sources]


@pytest.fixture(scope="module")
def page(made) -> str:
    path = write_report(made.folder)
    assert path == made.folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_nobody_for_anything(page):
    reader = parsed(page)
    pictures = images(reader)
    assert len(pictures) == 11  # accuracies, 3 of training, 5 of the search, 2 cells' mixtures
    for text in (page, *pictures):
        addresses = set(re.findall(r"\w+://[^\s\"'<>]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert "@import" not in text
        assert "<script" not in text
    for picture in pictures:
        ET.fromstring(picture)
    assert [tag for tag, _ in reader.tags].count("svg") == 2
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in reader.tags)
    assert any("default-src 'none'" in attrs.get("content", "") for tag, attrs in reader.tags if tag == "meta")


def test_every_picture_has_words_and_every_link_a_target(page):
    reader = parsed(page)
    assert all(attrs.get("alt") for tag, attrs in reader.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in reader.tags if tag == "svg")
    names = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert [attrs["href"] for tag, attrs in reader.tags if tag == "a"] == ["#" + name for name in names]
    assert names == ["summary", "next", "cells", "networks", "search", "mixtures", "details"]


def test_the_page_says_what_was_searched_and_what_came_of_it(page):
    text = " ".join(" ".join(parsed(page).text).split())
    assert "Architecture search on tiny" in text
    assert "storm" in text
    assert "75.00 %" in text
    assert "72.00 ± 2.00 %" in text
    assert "2 min 3 s" in text
    assert "8 operators, 14 edges a cell, about 1.1 × 10¹⁸ architectures" in text
    assert "tiny, 800 train, 800 validation, 400 test, images 8 × 8 × 1, in the search 4 × 4 × 1, 10 classes" in text
    assert "10 classes (guessing has 10.0 %)" in text
    assert "+3.00 points, 95 % interval −6.94 to +12.94" in text
    assert "better than 3 of 3" in text
    assert "argmax of the mixture without none" in text
    assert "not finished" not in text


def test_the_genotype_pastes_back(page, made):
    block = html.unescape(re.search(r'<pre class="copy"[^>]*>(.*?)</pre>', page, re.DOTALL)[1])
    assert block.count("\n") == 4
    space = spaces.darts()
    written = json.loads((made.folder / "result.json").read_text())["genotype"]
    assert spaces.to_string(space, spaces.from_string(space, block)) == written


def test_a_cell_that_loses_is_said_to_lose(tmp_path, write_run):
    page = render(read_run(write_run(tmp_path, space="nasbench201", found=0.5, random=(0.6, 0.7), steps=10).folder))
    assert "The found cell reaches 50.00 % against a mean of 65.00 %" in page
    assert "<h2>Found cell</h2>" in page


def test_a_disconnected_cell_is_said_to_guess(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=10, finished=False).folder
    cut = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    (folder / "search" / "genotypes.jsonl").write_text(json.dumps({"step": 10, "epoch": 1, "genotype": cut}) + "\n")
    assert "this network guesses" in render(read_run(folder))


def test_an_unfinished_run_reports_what_there_is(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", finished=False, steps=20).folder
    with open(folder / "search" / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "inner_lo')
    page = write_report(folder).read_text(encoding="utf-8")
    reader = parsed(page)
    text = " ".join(" ".join(reader.text).split())
    assert "This run is not finished" in text
    assert "1 line of search/metrics.jsonl could not be read and left out." in text
    assert "19 s search time, 20 steps" in text
    assert "Genotype so far" in text
    assert len(images(reader)) == 6
    assert "networks" not in [attrs.get("id") for _, attrs in reader.tags]


def test_a_run_that_trains_a_named_cell_claims_no_search(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=10, random=()).folder
    shutil.rmtree(folder / "search")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"kind": "train"}))
    result = json.loads((folder / "result.json").read_text())
    for key in ("method", "steps", "seconds", "derivation"):
        del result[key]
    (folder / "result.json").write_text(json.dumps(result))
    page = render(read_run(folder))
    text = " ".join(" ".join(parsed(page).text).split())
    assert "Training on tiny" in text
    assert "75.00 % test accuracy of the cell" in text
    assert "12 s training time" in text
    assert "found cell" not in text.lower()
    assert "random" not in text
    assert "derivation" not in text


def test_steps_at_which_the_series_expanded_are_counted(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=10, finished=False).folder
    path = folder / "search" / "metrics.jsonl"
    rows = [
        json.loads(line) | {"neumann_diverged": float(i < 3)} for i, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "The Neumann series expanded at 3 of 10 steps" in render(read_run(folder))


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("method: storm\nspace: darts\nseed: 3\ndata: tiny\n")
    reader = parsed(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [attrs["id"] for _, attrs in reader.tags if "id" in attrs] == ["summary", "details"]


def test_an_unknown_space_still_has_its_curves(tmp_path, write_run):
    folder = write_run(tmp_path, steps=10).folder
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"space": "mine"}))
    page = render(read_run(folder))
    assert "Space mine is not one that jnas knows by name" in page
    assert len(images(parsed(page))) == 9


def test_nothing_that_a_run_says_becomes_markup(tmp_path, write_run):  # whoever reads a report may not have run it
    evil = '<script>alert(1)</script><img src=x onerror=alert(1)>"\' onmouseover="x'
    folder = write_run(tmp_path, steps=10, data=evil).folder
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {evil: evil}))
    (folder / "environment.json").write_text(json.dumps({"device": evil, "jnas": evil, "started": evil}))
    result = json.loads((folder / "result.json").read_text())
    result |= {"method": evil, "derivation": evil, "genotype": evil, "seed": evil}
    result["found"]["name"] = result["random"][0]["seed"] = evil
    (folder / "result.json").write_text(json.dumps(result))
    rows = [json.loads(line) for line in (folder / "search" / "metrics.jsonl").read_text().splitlines()]
    (folder / "search" / "metrics.jsonl").write_text("".join(json.dumps(row | {evil: 1.0}) + "\n" for row in rows))
    rows = [json.loads(line) for line in (folder / "search" / "genotypes.jsonl").read_text().splitlines()]
    lines = "".join(json.dumps(row | {"genotype": evil, "epoch": evil}) + "\n" for row in rows)
    (folder / "search" / "genotypes.jsonl").write_text(lines)
    os.rename(folder / "train" / "found", folder / "train" / "<b>found")
    page = render(read_run(folder))
    reader = parsed(page)
    assert not any(tag in ("script", "b") and attrs for tag, attrs in reader.tags)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for tag, attrs in reader.tags if tag == "img")
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert sum(text.count("<script>alert(1)</script>") for text in reader.text) >= 8  # shown as the text it is
    for picture in images(reader):
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(picture).iter()}
        assert not tags & {"script", "img", "image", "foreignObject"}


def test_the_same_run_gives_the_same_page(tmp_path, write_run):
    run = read_run(write_run(tmp_path, space="nasbench201", steps=10, finished=False).folder)
    assert render(run) == render(run)


def test_a_failed_write_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    (tmp_path / "config.yaml").write_text("method: storm\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text("method: darts\n")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write .*report\.html: No space left on device"):
        write_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_wrong_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_pyplot_and_importing_needs_no_matplotlib(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=10, finished=False).folder
    code = (
        "import sys; from jnas import report; assert 'matplotlib' not in sys.modules;"
        f"from jnas.report.page import render; run = report.read_run({str(folder)!r}); render(run);"
        "assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_found_cell_stands_among_the_cells_trained_in_advance(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", found=0.75, random=(0.7,), steps=10).folder
    cell = "|{0}~0|+|{1}~0|{1}~1|+|{1}~0|{1}~1|{1}~2|".format
    rows = [
        {"kind": "random", "genotype": cell("skip_connect", "skip_connect"), "test_accuracy": 0.60, "parameters": 100},
        {"kind": "random", "genotype": cell("nor_conv_3x3", "skip_connect"), "test_accuracy": 0.80, "parameters": 900},
        {"kind": "1 nor_conv_3x3", "genotype": cell("nor_conv_3x3", "nor_conv_1x1"), "test_accuracy": 0.70,
         "parameters": 1000},
        {"kind": "6 nor_conv_3x3", "genotype": cell("nor_conv_3x3", "nor_conv_3x3"), "test_accuracy": 0.90,
         "parameters": 5000},
    ]  # fmt: skip
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["found"] |= {"genotype": cell("nor_conv_3x3", "avg_pool_3x3"), "parameters": 800}
    result["reference"] = {"cells": rows, "versions": {"jax": "0.10.2"}}
    path.write_text(json.dumps(result))
    page = render(read_run(folder))
    text = " ".join(" ".join(parsed(page).text).split())
    # Of three random cells, the one of this run among them, two are worse; 1 has as many convolutions as the found one.
    assert "better than 2 of 3" in text
    words = (
        "better than 1 of 2 random cells (mean 70.00 %); the 2 with as many 3x3 convolutions, 1, reach 75.00 % on "
        "average; the largest cell reaches 90.00 % with 5,000 parameters, the found one has 800"
    )
    assert f"Among cells trained in advance: {words}." in text
    assert "Cells trained in advance with these settings and data (jax 0.10.2)" in text
    assert "6 nor_conv_3x3 1 90.00 5,000" in text
    assert words.capitalize() in page  # beside the picture, for those who cannot see it
    assert reference_words(result) == words
    own = {"derivation": _rule(spaces.nasbench201(), ())}
    assert reference_words(result | own).removeprefix(words).startswith("; they were drawn without the operator none")
    assert reference_words(result | {"derivation": _rule(spaces.nasbench201(), ("none",))}) == words
    assert reference_words({**result, "reference": None}) == ""


def test_a_page_is_written_to_its_end_when_the_program_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("method: storm\n")

    def stopped(*given, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return render(*given, **options)

    monkeypatch.setattr("jnas.report.page.render", stopped)
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM: .*report\.html is written"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").strip().endswith("</html>")
