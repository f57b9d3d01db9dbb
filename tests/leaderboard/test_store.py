"""The store keeps what it was given, whoever writes beside it and whenever it is killed."""

import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from attnzoo.leaderboard.store import SCHEMA, Run, Store

RUN = Run(
    id="1f",
    board="demo",
    attn="mpe",
    seed=3,
    accuracy=0.1 + 0.2,
    classes=("joy", "<fear>"),
    predictions=({"video": "joy/ä.mp4", "label": "joy", "predicted": "<fear>", "probabilities": [0.1, 0.9]},),
    params=2**40,
    macs=2**50,
    seconds=1.5,
    history=({"epoch": 0, "loss": 1.75, "train_accuracy": 0.25},),
    recipe={"name": "demo", "model": {"attn": None, "stages": [3, 4]}},
    protocol="stratified 70/30",
    data="synth, 4f1c",
    commit="c0ffee-dirty",
    versions={"torch": "2.9"},
    machine="x86_64",
    finished="2026-01-02T03:04:05+00:00",
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "runs.sqlite"
    diverged = replace(RUN, id="2f", attn="none", history=({"epoch": 0, "loss": math.nan},))
    other = replace(RUN, id="3f", board="another", seed=0)
    with Store(path) as store:
        for run in (RUN, diverged, other):
            store.add(run)
        store.add(replace(RUN, accuracy=0.9))  # the id decides: the first one stays
    with Store(f"sqlite:///{path}", create=False) as store:
        assert store.ids() == {"1f", "2f", "3f"}
        assert store.boards() == ["another", "demo"]
        first, plain, last = store.runs()
        assert (first, last) == (other, RUN)
        assert plain.attn == "none"  # the plain network comes before the others of its board
        assert math.isnan(plain.history[0]["loss"])
        assert store.runs("another") == [other]
        with pytest.raises(ValueError, match="no board 'dmo'; it has: another, demo"):
            store.runs("dmo")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(ValueError, match="accuracy nan"):
        replace(RUN, accuracy=math.nan)


# Four writers at once, forked from one process so that torch is imported once; then that process dies in a transaction.
_WRITERS = """
import os, sys
from dataclasses import replace
import sqlalchemy as sa
from attnzoo.leaderboard.store import Store
sys.path.insert(0, sys.argv[2])
from test_store import RUN

children = []
for writer in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            with Store(sys.argv[1]) as store:
                for i in range(8):
                    store.add(replace(RUN, id=f"{writer}-{i}"))
                    store.add(replace(RUN, id=f"shared-{i}"))
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
if any([os.waitpid(pid, 0)[1] for pid in children]):
    sys.exit("a writer failed")

store = Store(sys.argv[1])
sa.event.listen(store._engine, "commit", lambda connection: os._exit(9))
store.add(replace(RUN, id="cut off", machine="x" * 5_000_000))  # longer than the page cache, so partly on the disk
"""


def test_writers_lose_nothing_and_death_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    command = [sys.executable, "-c", _WRITERS, str(path), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=120).returncode == 9
    assert path.with_name("runs.sqlite-wal").stat().st_size > 1_000_000
    with Store(path) as store:
        assert store.ids() == {f"{w}-{i}" for w in (0, 1, 2, 3, "shared") for i in range(8)}
        store.add(RUN)
        assert RUN in store.runs()


def test_stores_that_are_none(tmp_path: Path) -> None:
    missing = tmp_path / "missing.sqlite"
    with pytest.raises(
        ValueError, match=r"no runs in .*missing.sqlite; make some with: attnzoo leaderboard run RECIPE"
    ):
        Store(missing, create=False)
    assert not missing.exists()

    text = tmp_path / "notes.txt"
    text.write_text("no database\n" * 100)
    with pytest.raises(ValueError, match=r"notes.txt cannot be opened: file is not a database; give") as caught:
        Store(text)
    assert "\n" not in str(caught.value)
    assert text.read_text() == "no database\n" * 100

    with pytest.raises(ValueError, match="cannot be opened: unable to open database file"):
        Store(tmp_path)
    with pytest.raises(ValueError, match=r"notes.txt/runs.sqlite cannot be opened"):
        Store(text / "runs.sqlite")
    with pytest.raises(ValueError, match="oracle-bone://x cannot be opened"):
        Store("oracle-bone://x")
    with pytest.raises(ValueError, match="sqlite:// must name a file"):
        Store("sqlite://")


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r'store postgresql\+psycopg://x/y needs psycopg; .*"attnzoo\[postgres\]"'):
        Store("postgresql+psycopg://x/y")


def test_stores_of_others(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = ?", (SCHEMA + 1,))
    with pytest.raises(ValueError, match=rf"schema {SCHEMA + 1}, this attnzoo knows schemas up to {SCHEMA}; upgrade"):
        Store(newer)

    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    with pytest.raises(ValueError, match="runs of another program"):
        Store(foreign)
