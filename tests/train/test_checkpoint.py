import errno
import resource
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.errors import UserError
from jnas.train import checkpoint
from jnas.train.checkpoint import Checkpoints
from jnas.train.weights import load_tree, save_tree


def a_tree():
    return {
        "weights": [jnp.arange(6.0).reshape(2, 3), jnp.array([1.5, -2.0], jnp.bfloat16)],
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "empty": jnp.zeros((0, 3)),
        "count": jnp.int32(7),
        "none": None,
    }


def abstract(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)


def same(a, b):
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(data(x)).tobytes() == np.asarray(data(y)).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_round_trip_of_every_kind_of_leaf_and_only_the_newest_two_stay(tmp_path):
    tree = a_tree()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 5):
            checkpoints.save(step, tree | {"count": jnp.int32(step)}, {"note": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]
    with Checkpoints(tmp_path) as checkpoints:
        step, found, meta = checkpoints.restore(abstract(tree))
    assert (step, meta) == (5, {"note": "x"})
    assert same(found, tree | {"count": jnp.int32(5)})


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = jnp.arange(100_000.0)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    expected = np.array(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        overwrite(state).block_until_ready()
        checkpoints.wait()
        _, found, _ = checkpoints.restore(jax.ShapeDtypeStruct(expected.shape, expected.dtype))
    np.testing.assert_array_equal(found, expected)


def test_leftovers_of_a_killed_save_are_neither_read_nor_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(2)}, {})
    shutil.copytree(tmp_path / "1", tmp_path / "7.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(9, {"a": jnp.zeros(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "9"]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (ValueError("UNKNOWN: reading [os_error_code='12']"), "Cannot allocate memory"),
        (ValueError("NOT_FOUND: no key"), "NOT_FOUND"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("RESOURCE_EXHAUSTED: no memory\nmore"), "RESOURCE_EXHAUSTED: no memory"),
    ],
)
def test_what_a_disk_does_not_give_is_one_sentence_and_nothing_is_removed(tmp_path, monkeypatch, refused, reason):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, {"a": jnp.ones(2)}, {})
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "restore", mock.Mock(side_effect=refused))
            sentence = (
                rf"^the checkpoint of step 7 in \S+ cannot be read: {reason}; .* delete {tmp_path}/7 to do without"
            )
            with pytest.raises(UserError, match=sentence):
                checkpoints.restore({"a": jnp.ones(2)})
        assert checkpoints.restore({"a": jnp.ones(2)})[0] == 7


def test_files_that_are_gone_are_refused_and_those_that_were_changed_are_damage(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"a": jnp.ones(2)}, {})
    parts = tmp_path / "3" / "state"
    parts.rename(tmp_path / "elsewhere")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=rf"try again .*, or delete {tmp_path}/3"):
        checkpoints.restore({"a": jnp.ones(2)})
    (tmp_path / "elsewhere").rename(parts)
    for path in (path for path in parts.rglob("*") if path.is_file()):
        path.write_bytes(path.read_bytes()[::-1])
    sentence = rf"step 3 in \S+ is damaged and there is none before it: delete {tmp_path}/3 to begin anew"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=sentence):
        checkpoints.restore({"a": jnp.ones(2)})


def test_a_checkpoint_with_other_bytes_is_told_of_and_the_one_before_is_taken_up(tmp_path, capfd, monkeypatch):
    numbers = lambda step: {"a": step + jax.random.normal(jax.random.key(0), (50,)), "key": jax.random.key(step)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, numbers(3), {"step": 3})
        checkpoints.save(7, numbers(7), {"step": 7})
    # Other numbers than were saved, as bytes that changed on the disk are read as.
    plain = checkpoint.to_host
    changed = [1]
    monkeypatch.setattr(checkpoint, "to_host", lambda leaf: plain(leaf) + changed.pop() if changed else plain(leaf))
    with Checkpoints(tmp_path) as checkpoints:
        step, found, meta = checkpoints.restore(abstract(numbers(0)))
        assert (step, meta) == (3, {"step": 3})
        assert same(found, numbers(3))
        assert f"step 7 in {tmp_path} is damaged: it is removed, and step 3" in capfd.readouterr().err
        checkpoints.save(7, numbers(7), {"step": 7})
        checkpoints.wait()
        assert same(checkpoints.restore(abstract(numbers(0)))[1], numbers(7))


def test_values_that_changed_in_a_checkpoint_are_noticed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"a": jnp.ones(2)}, {"enough": False})
    meta = tmp_path / "3" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("false", "true"))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"step 3 .* none before it: delete"):
        checkpoints.restore({"a": jnp.ones(2)})


def test_a_checkpoint_of_a_version_without_checksums_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_sum", lambda *_: None)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"a": jnp.ones(2)}, {})
    monkeypatch.undo()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({"a": jnp.ones(2)})[0] == 3


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.restore({"a": jnp.ones(2)})


def test_a_write_that_fails_later_is_one_sentence_and_no_traceback_in_the_log(tmp_path, capfd):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder)
    folder.rmdir()
    folder.touch()  # a file where the folder was: even the superuser cannot write below it
    # Which of Orbax's calls fails first, and so the system's reason, varies.
    sentence = r"^cannot write the checkpoint of step 4 to .*/c: (Not a directory|No such file or directory); .*folder$"
    with pytest.raises(UserError, match=sentence):
        checkpoints.save(4, {"a": jnp.ones(2)}, {})
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_takes_no_more_is_one_sentence_and_the_checkpoint_before_stays(tmp_path):
    large = jax.random.normal(jax.random.key(0), (100_000,))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": large[:9]}, {})
    checkpoints.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"^cannot write the checkpoint of step 2 to .*: File too large; free"):
            save_and_wait(checkpoints, 2, {"a": large})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1


def save_and_wait(checkpoints, step, state):
    checkpoints.save(step, state, {})
    checkpoints.wait()


class TestTreeFile:
    def test_round_trip(self, tmp_path):
        tree = {name: a_tree()[name] for name in ("weights", "empty", "count", "none")}
        save_tree(tmp_path / "w.npz", tree)
        assert same(load_tree(tmp_path / "w.npz", jax.eval_shape(lambda: tree)), tree)
        assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]
        with np.load(tmp_path / "w.npz") as archive:
            assert archive["tree['weights'][0]"].tolist() == [[0, 1, 2], [3, 4, 5]]

    def test_every_single_damaged_byte_of_the_data_is_noticed(self, tmp_path):
        file = tmp_path / "w.npz"
        save_tree(file, {"w": jnp.arange(8.0)})
        good = file.read_bytes()
        start = good.index(np.arange(8, dtype=np.float32).tobytes())
        for position in (start, start + 17, start + 31):
            file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(UserError, match=r"w\.npz is damaged"):
                load_tree(file, {"w": jnp.arange(8.0)})

    @pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no weights"])
    def test_other_files_are_refused(self, tmp_path, content):
        (tmp_path / "w.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"w\.npz is damaged or no file of weights"):
            load_tree(tmp_path / "w.npz", {"w": jnp.arange(8.0)})

    def test_other_weights_are_refused_by_the_name_of_the_leaf(self, tmp_path):
        save_tree(tmp_path / "w.npz", {"w": jnp.ones(3)})
        with pytest.raises(UserError, match=r"state\['w'\] is float32\[3\] there and float32\[4\] here"):
            load_tree(tmp_path / "w.npz", {"w": jnp.ones(4)})
        with pytest.raises(UserError, match=r"state\['v'\] is absent there"):
            load_tree(tmp_path / "w.npz", {"w": jnp.ones(3), "v": jnp.ones(3)})

    def test_paths_that_do_not_work(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*absent\.npz: No such file"):
            load_tree(tmp_path / "absent.npz", {})
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
            save_tree(tmp_path / "file" / "w.npz", {"w": jnp.ones(3)})

    def test_a_key_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="key_data"):
            save_tree(tmp_path / "w.npz", {"k": jax.random.key(0)})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype):
    """Such a network would call everything class 0, and be right as often as that is there."""
    tree = {"n": jnp.arange(3), "w": jnp.array([1.0, float("nan")], dtype)}
    save_tree(tmp_path / "w.npz", tree)
    with pytest.raises(UserError, match=r"w\.npz is damaged .*tree\['w'\] holds numbers that are not finite"):
        load_tree(tmp_path / "w.npz", jax.eval_shape(lambda: tree))
