"""Whatever happens to a file that jnas reads, the command ends in success or in one sentence and status 2."""

import os
import pathlib
import random

import fuzzing

NUMBER = int(os.environ.get("JNAS_FUZZ", "320"))  # of damaged files; give thousands for a longer search
PAGES = [name for name in fuzzing.KINDS if name.startswith("page/")]  # which take ten times as long as others


def test_every_damaged_file_ends_in_success_or_in_one_sentence(tmp_path, monkeypatch):
    fuzzing.corpus(tmp_path)
    fuzzing.lighten(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in {" ".join(words): words for _, commands in fuzzing.KINDS.values() for words in commands}.values():
        status, _, said = fuzzing.answer(words)
        assert (status, said) == (0, ""), words  # what is whole is read
    whole = {name: pathlib.Path(name).read_bytes() for name in fuzzing.KINDS}
    order = 6 * [name for name in fuzzing.KINDS if name not in PAGES] + PAGES
    refused, wrong = 0, {}
    for number in range(NUMBER):
        name = order[number % len(order)]
        status, said = fuzzing.try_one(tmp_path, whole, name, random.Random(number))
        refused += status == 2
        if said is not None:
            wrong[number, name] = said
    assert not wrong, "\n\n".join(f"{key}: {said}" for key, said in wrong.items())
    assert NUMBER // 5 < refused < NUMBER  # the damage is such that both happen
