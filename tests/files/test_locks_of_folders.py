"""Locks on folders, also where the file system has none."""

import errno
import fcntl
import os
import stat

import pytest

from jnas.files.locks import exclusive


@pytest.mark.parametrize("locks_folders", [True, False])
def test_a_folder_has_one_holder(locks_folders, tmp_path, monkeypatch):
    plain = fcntl.flock

    def flock(file, how):
        if not locks_folders and stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS answers
        return plain(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path, wait=False) as first, exclusive(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
    with exclusive(tmp_path, wait=False) as again:
        assert again
    assert [file.name for file in tmp_path.iterdir()] == ([] if locks_folders else [".lock"])


def test_a_file_that_cannot_be_locked_is_an_error(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available"), exclusive(tmp_path / "a", wait=False):
        pass
