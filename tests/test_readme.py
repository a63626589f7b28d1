"""README's example runs, and the commands in it are those that CI runs."""

import pathlib
import re

import jax
import numpy as np
import pytest

from jnas import nets

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
PAGES = [
    ROOT / "README.md",
    *sorted(EXPERIMENTS.rglob("README.md")),
    *sorted((ROOT / "third_party").rglob("README.md")),
]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("standard_promotion")
def test_the_example_runs_and_finds_the_activation_that_made_the_data(readme, capsys):
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    example = next(block for block in blocks if "flax" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert int(np.argmax(names["state"].point.alpha)) == 2
    assert "sin" in capsys.readouterr().out


@pytest.mark.usefixtures("standard_promotion")
def test_the_example_of_several_runs_ends_at_the_optimum(readme):
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "Several" in block)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["runs"].diverged_at.tolist() == [0, 0]
    np.testing.assert_allclose(names["runs"].state.point.alpha, 1.0, atol=0.05)


def test_the_example_of_an_own_operator_makes_a_supernet(readme):
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "SqueezeExcite" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    params, _ = jax.eval_shape(lambda key: nets.initialise(names["net"], key, (8, 8, 3)), jax.random.key(0))
    assert params["block_0"]["edges_0"]["squeeze_excite"]["Conv_0"]["kernel"].shape == (6, 3, 3, 8, 8)


def test_the_table_of_equations_quotes_code_that_is_there(readme):
    table = readme[readme.index("| equation | code |") :].split("\n\n")[0]
    quotes = re.findall(r"`([^`]+)` in \[`[^`]+`\]\(([^)]+)\)", table)
    assert len(quotes) == len(table.splitlines()) - 2
    for code, path in quotes:
        assert code in " ".join((ROOT / path).read_text().split()), (code, path)


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
