"""What to do next: commands that the command line takes, for each kind of run."""

import html
import json
import shlex

import pytest
from PIL import Image
from tiny import accepted

import jnas
from jnas.cli.main import _parser
from jnas.cli.words import closing
from jnas.data.load import load
from jnas.recipes import commands, config, run_folder
from jnas.recipes.zoo.settings import Selection
from jnas.report.next_steps import KINDS, name_of_kind, next_steps
from jnas.report.page import render
from jnas.report.reading import read_run

OWN = {
    "detection": (
        {"voc_ap50": 0.5, "coco_ap50": 0.5, "coco_ap": 0.25, "classes": {}, "photos": 2, "measured_on": "test"},
        "50.0 %",
        "average precision at overlap .5",
    ),
    "recognition": ({"recall_at_1": 0.75, "map_at_r": 0.5}, "75.0 %", "recall at 1"),
    "quantised": ({"test_accuracy": 0.75}, "2.50 kB", "its weights, packed at their bit widths"),
    "select": ({"test_accuracy": 0.75, "model": "m"}, "75.00 %", "test accuracy of the chosen network"),
    "train": ({"test_accuracy": 0.75}, "75.00 %", "test accuracy of the cell"),
    "search": ({"test_accuracy": 0.75}, "75.00 %", "test accuracy of the found cell"),
}

GENOTYPE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
SETTINGS = {
    "detection": lambda: commands.asked_training(GENOTYPE, {"data": "photos"}, task="detection").settings,
    "recognition": lambda: commands.asked_training(GENOTYPE, task="recognition").settings,
    "quantised": lambda: commands.asked_search("joint").settings,
    "select": lambda: config.build(Selection, {"data": "photos", "zoo": "zoo"}),
    "train": lambda: commands.asked_training(GENOTYPE).settings,
    "search": lambda: commands.asked_search().settings,
}


def made(folder, write_run, kind):
    folder = write_run(folder, space="nasbench201", steps=10, random=()).folder
    more = {
        "genotype": "|",
        "test_accuracy": 0.75,
        "size": 2500,
        "compute": 1,
        "reward": 1.0,
        "evaluations": 1,
        "curve": [1],
    }
    own = {"quantised": {"joint": more | {"policy": {"a": "w8a8"}}}} if kind == "quantised" else {}
    task = {"task": kind} if kind in ("detection", "recognition") else {}
    (folder / "config.yaml").unlink()
    begun = run_folder.begin(folder.parent / "begun", SETTINGS[kind](), "train" if task else kind)
    (begun / "config.yaml").rename(folder / "config.yaml")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | task | own | {"found": {"genotype": "|"} | OWN[kind][0]}))
    return folder


@pytest.mark.parametrize("kind", OWN)
def test_each_kind_has_its_title_its_cards_and_three_commands(kind, tmp_path, write_run):
    run = read_run(made(tmp_path / "of mine", write_run, kind))
    assert name_of_kind(run) == kind
    page = render(run)
    assert f"<h1>{KINDS[kind].title} on tiny</h1>" in page
    _, figure, what = OWN[kind]
    assert f"<b>{figure}</b><span>{what}" in page
    assert ("cannot say whether the search helped" in page) == (kind == "search")
    assert ("15,625 architectures, of which `operators` leaves 729" in page) == (kind == "quantised")
    assert f"10 {'steps' if kind == 'search' else 'evaluations'}</span>" in page
    steps = next_steps(run)
    assert len(steps) == 3
    assert all(f"<code>{html.escape(command)}</code>" in page for command, _ in steps)
    for command, _ in steps:
        name, *words = shlex.split(command)
        assert name == "jnas"
        assert _parser().parse_args(words) if words[0] in ("predict", "export", "evaluate") else accepted(command)


@pytest.mark.parametrize(("epochs", "longer"), [(4, 50), (50, 100)])
def test_longer_is_longer_than_it_was(epochs, longer, tmp_path, write_run):
    folder = made(tmp_path / "run", write_run, "train")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"found": result["found"] | {"epochs": epochs}}))
    assert next_steps(read_run(folder))[0][0] == f"jnas train {folder} train.epochs={longer}"


@pytest.mark.usefixtures("standard_promotion")
def test_the_program_and_python_take_what_the_page_of_a_run_says(finished, images, tmp_path, monkeypatch):
    """The run is one of the command line; by its words it becomes one of a notebook."""
    monkeypatch.chdir(tmp_path)
    test = load(str(images)).test
    pictures = test.images.reshape(-1, *test.shape)
    Image.fromarray(pictures[0, ..., 0]).save("photo.png")
    run = read_run(finished[0])
    again, *others = (command for command, _ in next_steps(run))
    assert all(accepted(command, IMAGE="photo.png") for command in (again, *others))

    run = run._replace(environment=run.environment | {"argv": ["/x/ipykernel_launcher.py", "-f", "kernel.json"]})
    steps = [command for command, _ in next_steps(run)]
    assert steps == [
        f"jnas.search_architecture('{run.folder}/config.yaml', 'train.epochs=8', out='{run.folder}-again')",
        f"jnas.load('{run.folder}').predict(images)",
        f"jnas.load('{run.folder}').export('network.jnas')",
    ]
    assert again == f"jnas search {run.folder}/config.yaml train.epochs=8 --out {run.folder}-again"
    several = run._replace(config=run.config | {"num_runs": 8}, result=run.result | {"data": {}})  # of seeds 0 to 7
    assert "'seed=8'" in next_steps(several)[0][0]
    for step in steps[1:]:
        assert eval(step, {"jnas": jnas, "images": pictures})
    (going_on,) = (command for command, _ in next_steps(run._replace(result={})))
    assert going_on == f"jnas.search_architecture('{run.folder}/config.yaml', out='{run.folder}')"
    assert eval(going_on, {"jnas": jnas}).result == run.result  # it is this very run


def test_a_run_of_a_recipe_that_the_program_does_not_know_is_only_used(tmp_path, write_run):
    folder = write_run(tmp_path, steps=10).folder
    (folder / "config.yaml").write_text("kind: halving\nseed: 0\n")
    assert [shlex.split(command)[1] for command, _ in next_steps(read_run(folder))] == ["predict", "export"]


def test_a_run_that_is_not_finished_is_gone_on_with(tmp_path, write_run, capsys):
    folder = write_run(tmp_path, steps=10, finished=False).folder
    (folder / "environment.json").write_text(json.dumps({"argv": ["/x/jnas", "search", "data=a b", "--out", "o"]}))
    assert next_steps(read_run(folder)) == [("jnas search 'data=a b' --out o", "goes on where it stopped")]
    closing(folder)
    assert capsys.readouterr().out.splitlines() == [
        f"run       {folder}", "next      jnas search 'data=a b' --out o  # goes on where it stopped"
    ]  # fmt: skip
    (folder / "environment.json").write_text("{}")
    assert next_steps(read_run(folder)) == []


def test_a_stage_over_groups_is_drawn(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=20).folder
    result = json.loads((folder / "result.json").read_text())
    groups = [["skip_connect", "avg_pool_3x3"], ["nor_conv_1x1", "nor_conv_3x3"]]
    (folder / "result.json").write_text(
        json.dumps(result | {"groups": groups, "edge_ops": {"cell": [["none", "nor_conv_1x1", "nor_conv_3x3"]] * 6}})
    )
    (folder / "search").rename(folder / "stage-1")
    (folder / "stage-1" / "genotypes.jsonl").write_text(json.dumps({
        "step": 10, "epoch": 1, "alpha": {"cell": [[0.0, 1.0, 0.0, 0.0, 0.0]] * 6},
        "genotype": "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
    }) + "\n")  # fmt: skip
    page = render(read_run(folder))
    assert "<h2>Stage 1: the group on every edge</h2>" in page
    assert "nor_conv_1x1: nor_conv_1x1, nor_conv_3x3" in page
    assert "Largest weight at the end: 0 to 1: skip_connect 0.58" in page  # e / (e + 2)
    assert "15,625 architectures, of which the last stage searched 729" in page
