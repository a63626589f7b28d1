"""Settings of the smallest search, and how the program answers what it refuses."""

import shlex

from jnas.cli.main import _parser, main
from jnas.data.load import load
from jnas.recipes import commands
from jnas.spaces import networks

# The default method and space at the smallest size.
TINY = (
    "channels=2", "depth=1", "epochs=2", "batch_size=10", "random_cells=1", "augmentation.crop=1",
    "train.channels=2", "train.depth=1", "train.epochs=2", "train.batch_size=20", "train.augmentation.crop=1",
)  # fmt: skip

# That of tests/golden/run-0.5.0.
OLD_SEARCH = (
    "search", "double-recursion", "without_none=false", "data=images.npz", "channels=2", "steps=12", "batch_size=8",
    "random_cells=1", "checkpoint_every=4", "steps_per_call=1", "augmentation.crop=1", "train.channels=2",
    "train.epochs=1", "train.batch_size=16", "train.augmentation.crop=1", "--out",
)  # fmt: skip

ENTRY = "\nfrom jnas.cli.main import entry\nentry()\n"
# For `command(before=...)`: the first `fit` of a program, its search, sends the process a signal after a step. So what
# is stopped, and when, does not depend on how soon somebody else sees that step done.
SIGNALLED = """
import os
from jnas import train

plain = train.fit

def fit(*given, hooks=(), **options):
    train.fit = plain
    look = lambda event: os.kill(os.getpid(), {number:d}) if event.step == {step} else None
    return plain(*given, hooks=[*hooks, train.Hook(steps=look)], **options)

train.fit = fit
"""


def refused(capsys, *words, status=2):
    """Runs the program in this process; returns the one line that it answers."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == status, (code, out, err)
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("jnas")
    assert "Traceback" not in err
    return err


def accepted(command, **given):
    """Runs a command that a page shows: a search and a training as far as their settings, data and space.

    `given`: what stands for words such as IMAGE.
    """
    program, *words = (str(given.get(word, word)) for word in shlex.split(command))
    assert program == "jnas"
    arguments = _parser().parse_args(words)  # ends the program where it does not understand them
    if words[0] not in ("search", "train"):
        return main(words) == 0
    asked = (
        commands.asked_search(*arguments.words)
        if words[0] == "search"
        else commands.asked_training(arguments.what, *arguments.words)
    )
    return bool(networks.network_space(asked.settings.space) and load(asked.settings.data))
