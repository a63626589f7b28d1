"""Every preset: the command that was killed is given again, word for word, and goes on.

That it ends in the same bits is tested where each recipe is, with a kill in the middle of its search.
"""

import json

import pytest

from jnas.recipes import config

TRAIN, GROUPED = ("train.depth=1", "train.batch_size=20"), ("first.depth=1", "second.depth=1", "batch_size=20")
SHRUNK = {
    "search": ("depth=1", "batch_size=20", *TRAIN), "grouped": (*GROUPED, *TRAIN), "quantised": TRAIN,
    "space_search": ("examples=40", "validation=20", "judge.batch_size=20", *TRAIN),
    "trials": ("train_images=40", "validation=20", "trial.batch_size=20", *TRAIN),
}  # fmt: skip
# A process for each command, forked where everything is loaded and nothing has begun. The first is killed before the
# first or the second file of its folder has its name, or when both have; the second ends where its search would go on.
SCRIPT = """
import json, os, signal, sys
import orbax.checkpoint
from jnas import data, nets, report
from jnas.cli import main as cli
from jnas.recipes import commands, config, run_folder

plain, replace, loaded = run_folder.begin, os.replace, [commands.recipe_of(kind) for kind in config.KINDS]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
for number, words in enumerate(json.loads(sys.argv[1])):
    ended, left = [], list(range(number % 3))
    for end in (kill, lambda: os._exit(77)):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(write, 2)
            run_folder.begin = lambda *given: (plain(*given), end())
            if end is kill:
                os.replace = lambda *given: replace(*given) if left and left.pop() >= 0 else kill()
            os._exit(cli.main(words))
        os.close(write)
        with open(read) as pipe:
            ended.append([pipe.read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])
    print(json.dumps(ended), flush=True)
"""


@pytest.fixture(scope="module")
def ended(start_script, images, tmp_path_factory):
    folder, presets = tmp_path_factory.mktemp("again"), config.presets()
    words = [
        ["search", name, f"data={images}", *SHRUNK[config.kind_of(name)], "--out", str(folder / name)]
        for name in presets
    ]
    process = start_script(SCRIPT, json.dumps(words))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return dict(zip(presets, map(json.loads, out.splitlines()), strict=True))


@pytest.mark.parametrize("preset", config.presets())
def test_the_same_command_goes_on_after_it_was_killed(ended, preset):
    assert ended[preset] == [["", -9], ["", 77]]
