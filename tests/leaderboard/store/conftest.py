"""A PostgreSQL server of the tests' own, and for each test an empty place for a store, in a file or on the server."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made: a file in a folder that is not there yet, or an empty database of a real server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/runs.sqlite"
    server: sa.URL = request.getfixturevalue("postgres")
    name = f"test_{secrets.token_hex(8)}"
    with sa.create_engine(server, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[sa.URL]:
    """A server that lives in a temporary folder for as long as the tests run."""
    folder = Path(tempfile.mkdtemp(prefix="attnzoo-postgres-"))  # pytest's own folders are for root's eyes alone
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    who = _unprivileged(folder, folder / "password")
    server: subprocess.Popen[bytes] | None = None
    try:
        access = ("--username=tester", "--pwfile=password", "--auth=scram-sha-256")
        made = subprocess.run(
            [_binary("initdb"), "--pgdata=data", *access, "--encoding=UTF8", "--locale=C", "--no-sync"],
            **{"cwd": folder, "capture_output": True, "check": False} | who,
        )
        assert made.returncode == 0, made.stderr.decode()
        for _ in range(3):  # another program may take the free port first
            url = sa.URL.create("postgresql+psycopg", "tester", password, "127.0.0.1", _free_port(), "postgres")
            server = _start(folder, url, who)
            if _answers(url, server):
                break
        else:
            pytest.fail(f"the PostgreSQL server does not start: {(folder / 'log').read_text()}")
        yield url
    finally:
        if server is not None:
            _stop(server)
        shutil.rmtree(folder)


def _unprivileged(*paths: Path) -> dict[str, Any]:
    """How to run a process that owns these paths: the server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _binary(name: str) -> str:
    """Of the newest version that Debian put beside the PATH, or of the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which(name)
    return found or pytest.fail(f"these tests run a PostgreSQL server, and there is no {name}: apt install postgresql")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(folder: Path, url: sa.URL, who: dict[str, Any]) -> subprocess.Popen[bytes]:
    settings = {
        "port": url.port,
        "listen_addresses": url.host,
        "unix_socket_directories": folder,
        "max_connections": 40,
        "shared_buffers": "16MB",
        "fsync": "off",
        "full_page_writes": "off",
    }
    command = [_binary("postgres"), "-D", "data", *(f"--{name}={value}" for name, value in settings.items())]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **who)


def _answers(url: sa.URL, server: subprocess.Popen[bytes]) -> bool:
    """Whether it starts, and in time."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for _ in range(600):
        if server.poll() is not None:
            return False
        try:
            engine.connect().close()
            return True
        except sa.exc.OperationalError:
            time.sleep(0.1)
    _stop(server)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
