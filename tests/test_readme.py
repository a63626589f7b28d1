"""README and the documents: examples run, commands and imports are there, quotes and figures stand where they say."""

import importlib
import importlib.util
import json
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

import jnas
from jnas import nets
from jnas.recipes import commands

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENTS, DOCS = ROOT / "experiments", ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted(EXPERIMENTS.rglob("README.md")),
    *sorted((ROOT / "third_party").rglob("README.md")),
]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def names_after(example):
    names: dict = {}
    exec(compile(example, "example.py", "exec"), names)
    return names


def lines_of_code(example):
    return len([line for line in example.splitlines() if line.strip()])


def test_readme_is_short(readme):
    assert len(readme.splitlines()) <= 120


def test_every_file_that_says_the_version_says_the_same():
    lines = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "jnas/CHANGELOG.md": r"^## (\d.+)$",
        "docs/peers.md": r"^\| version, last release \| ([\d.]+),",
    }
    for name, line in lines.items():
        assert re.findall(line, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[0] == jnas.__version__, name


def test_every_example_of_the_documents_has_a_test():
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") for _ in blocks(page)}
    # That of networks.md is run by tests/recipes/test_commands.py, as README's is, the others below.
    assert pages == {"bilevel.md", "clusters.md", "own.md", "networks.md"}


@pytest.mark.usefixtures("standard_promotion")
def test_the_example_runs_and_finds_the_activation_that_made_the_data(capsys):
    (example,) = blocks(DOCS / "bilevel.md")
    assert lines_of_code(example) <= 30
    assert int(np.argmax(names_after(example)["state"].point.alpha)) == 2
    assert "sin" in capsys.readouterr().out


@pytest.mark.usefixtures("standard_promotion")
def test_the_example_of_several_runs_ends_at_the_optimum():
    (example,) = blocks(DOCS / "clusters.md")
    runs = names_after(example)["runs"]
    assert runs.diverged_at.tolist() == [0, 0]
    np.testing.assert_allclose(runs.state.point.alpha, 1.0, atol=0.05)


def test_the_example_of_an_own_operator_makes_a_supernet():
    (example,) = blocks(DOCS / "own.md")
    assert lines_of_code(example) <= 15
    net = names_after(example)["net"]
    params, _ = jax.eval_shape(lambda key: nets.initialise(net, key, (8, 8, 3)), jax.random.key(0))
    assert params["block_0"]["edges_0"]["squeeze_excite"]["Conv_0"]["kernel"].shape == (6, 3, 3, 8, 8)


def test_the_searches_that_the_documents_show_are_accepted(tmp_path, monkeypatch):
    (tmp_path / "ops.py").write_text(blocks(DOCS / "own.md")[0])
    monkeypatch.chdir(tmp_path)
    shown = [line for page in DOCS.rglob("*.md") for text in blocks(page, "text") for line in text.splitlines()]
    shown = [line for line in shown if line.startswith("jnas search") and "|" not in line]
    searches = [re.split(r"\s{3,}| --", line)[0] for line in shown]
    assert len(searches) > 20
    for search in searches:
        commands.asked_search(*shlex.split(search)[2:])


def rows_of(text, head):
    """The cells of the tables with that head."""
    for table in text.split(head)[1:]:
        for line in table.split("\n\n")[0].splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_table_of_methods_names_imports_tests_and_figures_that_are_there():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    rows = list(rows_of(text, "| method | paper | equation | import | test | measured figure |"))
    assert len(rows) >= 38
    for name, _, _, imported, test, figure in rows:
        room, _, function = imported.strip("`").rpartition(".")
        assert callable(getattr(importlib.import_module(room), function)), name
        called, path = re.fullmatch(r"\[`(\w+)`\]\((.+)\)", test).groups()
        assert f"def {called}(" in (DOCS / path).read_text(encoding="utf-8"), name
        if not figure.startswith("not measured"):
            numbers, path = re.fullmatch(r"(.+): \[\w+\]\((.+)\)", figure).groups()
            measured = (DOCS / path).read_text(encoding="utf-8")
            for number in re.findall(r"\d*\.?\d(?:[\d,.]*\d)?(?:e-\d+)?", numbers):
                assert re.search(rf"(?<!\d){re.escape(number)}(?!\d)", measured), (name, number)


def test_the_table_of_equations_quotes_code_that_is_there():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    table = text[text.index("| equation | code |") :].split("\n\n")[0]
    quotes = re.findall(r"`([^`]+)` in \[`[^`]+`\]\(([^)]+)\)", table)
    assert len(quotes) == len(table.splitlines()) - 2
    for code, path in quotes:
        assert code in " ".join((DOCS / path).read_text(encoding="utf-8").split()), (code, path)


def test_the_reference_of_settings_is_made_for_every_kind_of_run():
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    source = [(DOCS / "settings.md").read_text(encoding="utf-8")]
    asked = [type(conf.settings_of(*found)) for found in re.findall(conf.SETTINGS, source[0])]
    assert {commands.recipe_of(kind)[1] for kind in commands.RECIPES} < set(asked)
    conf.fill_in(None, "docs/settings", source)
    assert source[0].count("| setting | default | values | meaning |") == len(asked)
    assert "<!--" not in source[0]


def heading_links(page):
    """The links to the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not heading or heading in heading_links(target), link


def test_the_index_of_the_experiments_has_the_question_and_the_answer_of_each_folder():
    index = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    folders = [path for path in EXPERIMENTS.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert folders
    for folder in folders:
        said = (folder / "README.md").read_text(encoding="utf-8")
        question, answer = re.match(r"# .+\n\n(.+\?) \*\*(.+)\*\*\n\n    \S", said).groups()  # then the command
        assert f"- {question} {answer} [`{folder.name}`]({folder.name}/README.md)\n" in index


def test_tutorials_are_kept_without_outputs():
    """Whether they run and are right is seen where the site is built, which executes them."""
    notebooks = sorted((EXPERIMENTS / "tutorials").glob("*.ipynb"))
    assert len(notebooks) == 2
    for notebook in notebooks:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells), notebook.name
        assert any("assert" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_script_that_a_text_names_is_there():
    for path in (*PAGES, *EXPERIMENTS.rglob("*.py"), ROOT / ".ci" / "run"):
        for script in re.findall(r"experiments/[\w/.-]+\.py", path.read_text(encoding="utf-8")):
            assert (ROOT / script).is_file(), f"{path}: {script}"


def test_ci_runs_exactly_the_commands_of_the_readme(readme):
    commands = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)[:2]
    script = (ROOT / ".ci" / "run").read_text()
    assert len(commands) == 2
    assert "README.md" in script  # it reads them from here, so that they cannot drift apart
    assert all("pip install" in command for command in commands)
