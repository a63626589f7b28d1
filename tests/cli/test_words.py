"""What a command says around its work."""

import argparse
import io
import sys

import pytest

from jnas.cli.main import main
from jnas.cli.words import on_the_way


def test_quiet_hides_what_is_said_on_the_way_and_no_error(capsys):
    with on_the_way(argparse.Namespace(quiet=True)):
        print("step 1 of 2", file=sys.stderr)
        print("the result")
    assert capsys.readouterr() == ("the result\n", "")
    for words in (["evaluate", "nowhere"], ["search", "--show", "seed=x"], ["export", "nowhere", "--out", "x"]):
        assert main([*words, "--quiet"]) == 2
        assert capsys.readouterr().err.startswith("jnas: ")


@pytest.mark.parametrize(
    ("given", "terminal", "said"),
    [
        ({"quiet": False}, True, "jnas: starting\n"),
        ({"quiet": False}, False, ""),
        ({"quiet": True}, True, ""),
        ({"quiet": False, "show": True}, True, ""),
        ({}, True, ""),  # a command that answers at once
    ],
)
def test_a_terminal_is_told_at_once_that_a_command_begins(given, terminal, said, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with on_the_way(argparse.Namespace(**given)):
        pass
    assert stream.getvalue() == said
