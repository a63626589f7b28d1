import json
import os
import pathlib

import jax
import pytest

from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.environment import environment
from jnas.errors import UserError
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
