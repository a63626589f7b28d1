"""The folder of a run: the same settings go on, whatever recipe they are of."""

import pytest

from jnas.cli.main import recipe_of
from jnas.errors import UserError
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
