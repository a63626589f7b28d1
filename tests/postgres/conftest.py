"""These tests start a PostgreSQL server of their own: they are collected where it and psycopg are installed."""

import contextlib
import importlib.util
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile

import pytest

FOUND = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
INITDB = str(FOUND[-1]) if FOUND else shutil.which("initdb")
REASONS = [
    *([] if INITDB else ["no PostgreSQL server is installed (apt-get install postgresql)"]),
    *([] if importlib.util.find_spec("psycopg") else ["psycopg is not installed (pip install 'jnas[postgres]')"]),
]
collect_ignore = ["test_postgres.py"] if REASONS else []


def pytest_report_header():
    return [f"tests/postgres: not collected, for {reason}" for reason in REASONS]


@pytest.fixture(scope="session")
def postgres():
    """The URL of a database on a server that listens on loopback, at a free port, and lives in a folder of its own."""
    bin_folder = pathlib.Path(INITDB).parent
    user = _user() if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jnas-postgres-"))
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def run(program, *arguments):
        subprocess.run(
            [str(bin_folder / program), "-D", str(folder / "data"), *arguments],
            check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    try:
        if user is not None:
            shutil.chown(folder, user)
        run("initdb", "-U", "jnas", "--auth=trust", "--no-sync")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://jnas@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _user():
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("there is no user but root to run the server as")
