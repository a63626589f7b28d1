"""Under LC_ALL=C, where Python takes text for ASCII, files and words are UTF-8 all the same."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tiny import ENTRY

from jnas.recipes.zoo import entries

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run-0.5.0"
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def command(*words):
    return subprocess.run([sys.executable, "-c", ENTRY, *map(str, words)], capture_output=True, env=os.environ | ASCII)


def test_a_class_with_an_accent_is_read_and_printed(tmp_path):
    run = pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    path = run / "train/found/network.json"
    facts = json.loads(path.read_text(encoding="utf-8")) | {"class_names": ["crêpe", "pie", "tart"]}
    path.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    asked = command("evaluate", run, "--data", tmp_path / "gone.npz")
    assert asked.returncode == 2
    assert asked.stderr.decode() == f"jnas: there is no file {tmp_path / 'gone.npz'}: check the name\n"
    entries.add(tmp_path / "zoo", entries.NETWORKS, "one", {"classes": facts["class_names"]}, {})
    shown = command("zoo", "show", tmp_path / "zoo", "one")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert json.loads(shown.stdout.decode())["classes"][0] == "crêpe"
