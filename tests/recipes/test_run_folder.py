"""The folder of a run: the same settings go on, whatever recipe they are of."""

import shutil

import numpy as np
import pytest

from jnas.cli.main import main
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.files.writing import left_name
from jnas.recipes import config, run_folder
from jnas.recipes.commands import recipe_of
from jnas.recipes.train_one import TrainOne
from jnas.recipes.zoo.settings import Selection

KINDS = {kind: recipe_of(kind)[1] for kind in ("search", "grouped", "space_search", "quantised", "trials")}
PRESETS = {name: (KINDS[config.kind_of(name)], config.read_preset(name)) for name in config.presets()}
OTHERS = {"train": (TrainOne, {"genotype": "a"}), "select": (Selection, {"data": "a"}), **PRESETS}


@pytest.mark.parametrize("kind", dict.fromkeys([*KINDS, *OTHERS]))
def test_the_same_settings_go_on_and_others_are_refused(kind, tmp_path):
    made, needed = OTHERS.get(kind) or (KINDS[kind], {})
    settings = config.build(made, needed)
    for _ in range(2):
        assert run_folder.begin(tmp_path / "run", settings, kind) == tmp_path / "run"
    with pytest.raises(UserError, match="holds a run with seed=0 and not 7"):
        run_folder.begin(tmp_path / "run", config.build(made, needed, {"seed": 7}), kind)


def test_a_run_begun_under_older_names_goes_on(tmp_path):
    settings = config.build(KINDS["search"], {"validation": 0.3})
    run_folder.begin(tmp_path / "run", settings, "search")
    stored = tmp_path / "run" / run_folder.CONFIG
    text = stored.read_text(encoding="utf-8").replace("validation: 0.3", "inner_fraction: 0.7")
    stored.write_text(text, encoding="utf-8")
    assert "inner_fraction" in text
    run_folder.begin(tmp_path / "run", settings, "search")
    assert config.build(KINDS["search"], config.read_yaml(stored)) == settings
    with pytest.raises(UserError, match=r"holds a run with validation=0.3 and not 0.4"):
        run_folder.begin(tmp_path / "run", config.build(KINDS["search"], {"validation": 0.4}), "search")


def test_one_class_is_nothing_to_search_with(tmp_path):
    image = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "one.npz", x_train=image, x_test=image, y_train=np.zeros(4, int), y_test=np.zeros(4, int))
    with pytest.raises(UserError, match="one has one class, which leaves nothing to tell apart"):
        run_folder.load_data(str(tmp_path / "one.npz"), None)


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


def test_what_is_left_of_a_run_that_could_not_begin_is_in_nobodys_way(tmp_path, monkeypatch):
    """As a full disk or a kill leaves it, between the environment and the settings."""

    def full(path, text):
        raise UserError("no space")

    settings, path = config.build(KINDS["search"]), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.files, "atomic_write", lambda path, text: full(path, text) if "seed" in text else
                      path.write_text(text, encoding="utf-8"))  # fmt: skip
        with pytest.raises(UserError, match="no space"):
            run_folder.begin(path, settings, "search")
    (path / left_name()).write_text("", encoding="utf-8")
    assert (path / run_folder.ENVIRONMENT).is_file()
    assert run_folder.is_free(path, settings, "search")
    assert run_folder.begin(path, settings, "search") == path
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run_folder.begin(tmp_path / "mine", settings, "search")
