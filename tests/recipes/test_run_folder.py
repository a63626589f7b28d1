"""The folder of a run: the same settings go on, whatever recipe they are of."""

import shutil

import pytest

from jnas.cli.main import main, recipe_of
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.recipes import config, run_folder
from jnas.recipes.train_one import TrainOne
from jnas.recipes.zoo.settings import Selection

KINDS = {kind: recipe_of(kind)[1] for kind in ("search", "grouped", "space_search", "quantised", "trials")}
OTHERS = {"train": (TrainOne, {"genotype": "a"}), "select": (Selection, {"data": "a"})}


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_the_same_settings_go_on_and_others_are_refused(kind, tmp_path):
    made, needed = OTHERS.get(kind) or (KINDS[kind], {})
    settings = config.build(made, needed)
    for _ in range(2):
        assert run_folder.begin(tmp_path / "run", settings, kind) == tmp_path / "run"
    with pytest.raises(UserError, match="holds a run with seed=0 and not 7"):
        run_folder.begin(tmp_path / "run", config.build(made, needed, {"seed": 7}), kind)


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    settings = config.build(TrainOne, {"genotype": "a"})
    with run_folder.alone(tmp_path / "run", settings, "train") as path:
        assert path == tmp_path / "run"
        second = run_folder.alone(tmp_path / "run", settings, "train")
        with pytest.raises(UserError, match=r"another process works in .*run: wait for it"), second:
            pass
    with run_folder.alone(tmp_path / "run", settings, "train"):
        assert sorted(file.name for file in path.iterdir()) == ["config.yaml", "environment.json"]


def test_every_command_that_leaves_a_run_waits_for_nobody(images, tmp_path, capsys):
    cell = "|nor_conv_1x1~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    for words in (["train", cell, f"data={images}"], ["search", "steps=1", f"data={images}"]):
        out = tmp_path / words[0]
        out.mkdir()
        with exclusive(out):
            assert main([*words, "--out", str(out)]) == 2
        assert "another process works in" in capsys.readouterr().err


def test_a_folder_that_is_removed_while_the_run_goes_on_is_an_error(tmp_path):
    settings = config.build(TrainOne, {"genotype": "a"})

    def run():
        with run_folder.alone(tmp_path / "run", settings, "train") as path:
            shutil.rmtree(path)
            (path / "train").mkdir(parents=True)  # as a training does that goes on

    with pytest.raises(UserError, match=r"^\S*run was removed while the run went on: "):
        run()
