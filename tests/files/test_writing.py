import fcntl
import json
import os
import pathlib
import types

import jax
import pytest

from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.files import writing
from jnas.files.writing import atomic_write, prepare_folder


def test_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "long old content")
    atomic_write(path, "é")
    assert path.read_bytes() == "é".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"^cannot write .*a\.txt: No space left on device; .*$"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_prepare_folder(tmp_path):
    assert prepare_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(prepare_folder(tmp_path / "a" / "b")) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "child", pathlib.Path("/proc/jnas")):
        with pytest.raises(UserError, match=f"^cannot write to the folder {path}: "):
            prepare_folder(path)


def test_environment_is_json_and_says_where():
    found = json.loads(json.dumps(environment()))
    assert found["jax"] == jax.__version__
    assert found["platform"] == "cpu"
    assert found["started"].endswith("+00:00")
    assert set(found) >= {"python", "jaxlib", "flax", "optax", "jnas", "device", "cpu_count", "argv"}


class TestCompilationCache:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch):
        names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
        before = {name: getattr(jax.config, name) for name in names}
        for name in ("JNAS_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        yield
        for name, value in before.items():
            jax.config.update(name, value)

    def test_folders(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert enable_compilation_cache() == tmp_path / "home/.cache/jnas/xla"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert enable_compilation_cache() == tmp_path / "xdg/jnas/xla"
        monkeypatch.setenv("JNAS_CACHE_DIR", str(tmp_path / "own"))
        assert enable_compilation_cache() == tmp_path / "own"
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")

    def test_off_or_impossible_changes_nothing(self, tmp_path, monkeypatch):
        before = jax.config.jax_compilation_cache_dir
        (tmp_path / "file").touch()
        for value in ("", str(tmp_path / "file" / "child")):
            monkeypatch.setenv("JNAS_CACHE_DIR", value)
            assert enable_compilation_cache() is None
            assert jax.config.jax_compilation_cache_dir == before


def test_a_link_that_somebody_planted_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("mine")
    taken = iter(["taken", "free"])
    monkeypatch.setattr(writing.uuid, "uuid4", lambda: types.SimpleNamespace(hex=next(taken)))
    (tmp_path / ".jnas-taken.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="File exists"):
        atomic_write(tmp_path / "a", "other")
    assert (tmp_path / "victim").read_text() == "mine"


def test_what_a_killed_writer_left_is_swept_away_and_what_a_living_one_writes_is_not(tmp_path):
    dead, folder, alive = (tmp_path / f".jnas-{name}.tmp" for name in ("dead", "folder", "alive"))
    dead.write_text("half")
    folder.mkdir()
    (folder / "a").touch()
    (tmp_path / ".mine.tmp").touch()
    with open(alive, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        atomic_write(tmp_path / "b", "b")
        assert sorted(os.listdir(tmp_path)) == [alive.name, ".mine.tmp", "b"]


def test_what_a_version_before_0_11_left_of_the_same_file_is_swept_away_when_it_is_a_day_old(tmp_path):
    for name in (".b.31.tmp", ".b.32.tmp", ".c.31.tmp", ".b.x.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0)) if "32" not in name else None
    atomic_write(tmp_path / "b", "b")
    assert sorted(os.listdir(tmp_path)) == [".b.32.tmp", ".b.x.tmp", ".c.31.tmp", "b"]


def test_a_file_that_was_swept_away_before_it_was_locked_is_written_again(tmp_path, monkeypatch):
    plain, calls = writing.fcntl.flock, []

    def flock(file, how):
        calls.append(how)
        if len(calls) == 1:
            next(tmp_path.glob(".jnas-*")).unlink()
        plain(file, how)

    monkeypatch.setattr(writing.fcntl, "flock", flock)
    atomic_write(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"
    assert len(calls) == 2


def test_a_written_file_has_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_atomic_write_replaces_no_pipe_and_no_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "", "/dev/null"):
        with pytest.raises(UserError, match="it is no file; name another"):
            atomic_write(name, "text")
    assert os.listdir(tmp_path) == ["pipe"]
    assert not os.path.isfile("/dev/null")
