"""The store keeps what it was given, in either database, whoever writes beside it and whenever it is killed."""

import math
import os
import random
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from attnzoo.leaderboard.schema import SCHEMA
from attnzoo.leaderboard.store import Run, Store

RUN = Run(
    id="1f",
    board="demo",
    row="mpe",
    factors={"attn": "mpe", "fusion": '"gmu" \\ €'},
    seed=3,
    fold=4,
    task="image",
    accuracy=0.1 + 0.2,
    classes=("joy", "<fear>"),
    predictions=({"video": "joy/ä.mp4", "label": "joy", "predicted": "<fear>", "probabilities": [0.1, 0.9]},),
    split={"train": ["joy/b.mp4"], "val": [], "test": ["joy/ä.mp4"]},
    params=2**40,
    macs=2**50,
    bytes=2**45,
    latency=0.125,
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
DIED = 9


def _numbered(name: str, samples: int = 20, board: str = "demo") -> Run:
    """A run that can be told from others by more than its id."""
    predictions = tuple({"video": f"{name}/{i}", "label": "joy", "probabilities": [i, 0.1]} for i in range(samples))
    return replace(RUN, id=name, board=board, predictions=predictions)


def _database(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)


def _file(url: str) -> Path | None:
    name = sa.make_url(url).database
    return Path(str(name)) if url.startswith("sqlite") else None


def test_round_trip(url: str) -> None:
    diverged = replace(RUN, id="2f", row="none", history=({"epoch": 0, "loss": math.nan},), bytes=None, latency=None)
    other = replace(RUN, id="3f", board="another", seed=0)
    with Store(url) as store:
        for run in (RUN, diverged, other):
            store.add(run)
        store.add(replace(RUN, accuracy=0.9))  # the id decides: the first one stays
    with Store(_file(url) or url, create=False) as store:
        assert store.ids() == {"1f", "2f", "3f"}
        assert store.boards() == ["another", "demo"]
        first, plain, last = store.runs()
        assert (first, last) == (other, RUN)
        assert plain.row == "none"  # the plain network comes before the others of its board
        assert math.isnan(plain.history[0]["loss"])
        assert (plain.bytes, plain.latency) == (None, None)
        assert store.runs("another") == [other]
        with pytest.raises(ValueError, match="no board 'dmo'; it has: another, demo"):
            store.runs("dmo")
    if file := _file(url):
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(ValueError, match="accuracy nan"):
        replace(RUN, accuracy=math.nan)


# --- Processes. They import the store alone, whose package would import torch, and fork, so that they start at once.
_ALONE = """
import sys, types
package = sys.modules["attnzoo"] = types.ModuleType("attnzoo")
package.__path__ = [sys.argv[1]]
sys.path.insert(0, sys.argv[2])
import test_store
getattr(test_store, sys.argv[3])(*sys.argv[4:])
"""


def _process(work: Callable[..., None], *arguments: str) -> subprocess.Popen[str]:
    here = Path(__file__)
    command = [sys.executable, "-c", _ALONE, str(here.parents[3] / "attnzoo"), str(here.parent), work.__name__]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


def _ends(work: Callable[..., None], *arguments: str) -> int:
    with _process(work, *arguments) as process:
        return process.wait(timeout=300)


def _at_once(number: int, work: Callable[[int], None]) -> None:
    """In so many processes, which wait until all are there."""
    barrier, gate = os.pipe()
    children = []
    for i in range(number):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                os.close(gate)
                os.read(barrier, 1)
                work(i)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
    os.close(gate)
    if sum(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a process failed")


def write_at_once(url: str) -> None:
    def write(writer: int) -> None:
        with Store(url) as store:
            for i in range(6):
                store.add(_numbered(f"{writer}-{i}"))
                store.add(_numbered(f"shared-{i}"))
            store.merge([_numbered(f"{writer}-merged"), *(_numbered(f"shared-{i}") for i in (9, 8, 7))])

    _at_once(16, write)


def test_sixteen_writers_lose_nothing(url: str) -> None:
    assert _ends(write_at_once, url) == 0  # and it was they who made the store
    with Store(url, create=False) as store:
        own = {f"{writer}-{i}" for writer in range(16) for i in (*range(6), "merged")}
        assert store.ids() == own | {f"shared-{i}" for i in (0, 1, 2, 3, 4, 5, 7, 8, 9)}
        assert all(run == _numbered(run.id) for run in store.runs())


def die_before_commit(url: str) -> None:
    store = Store(url)
    sa.event.listen(store._engine, "commit", lambda connection: os._exit(DIED))
    store.add(_numbered("cut off", samples=50_000))  # longer than the page cache, so partly on the disk


def test_a_write_that_is_cut_off_leaves_nothing(url: str) -> None:
    assert _ends(die_before_commit, url) == DIED
    if file := _file(url):
        assert file.with_name("runs.sqlite-wal").stat().st_size > 1_000_000
    with Store(url, create=False) as store:
        assert store.ids() == set()
        store.add(RUN)
        assert store.runs() == [RUN]


def write_for_ever(url: str, board: str) -> None:
    """A run on its own, then two in one transaction, and so on; each is announced when it is in the store."""
    store, number = Store(url), 0
    while True:
        alone, one, two = (_numbered(f"{board}:{number}{name}", 2_000, board) for name in ("", "a", "b"))
        store.add(alone)
        print(alone.id, flush=True)
        store.merge([one, two])
        print(one.id, two.id, flush=True)
        number += 1


def test_killed_at_any_moment_the_store_opens_with_whole_runs_only(url: str) -> None:
    moments = random.Random(0)
    for attempt in range(5):
        board = f"attempt-{attempt}"
        with _process(write_for_ever, url, board) as process:
            assert process.stdout
            said = [process.stdout.readline()]
            time.sleep(moments.uniform(0, 0.15))
            process.kill()
            said += process.stdout.read().splitlines()
        announced = {name for line in said for name in line.split()}
        with Store(url, create=False) as store:
            found = {run.id: run for run in store.runs(board)}
            assert announced <= set(found)
            assert len(set(found) - announced) <= 2  # of the last write, which may have got through unannounced
            assert all(run == _numbered(name, 2_000, board) for name, run in found.items())
            first, second = ({name[:-1] for name in found if name.endswith(end)} for end in "ab")
            assert first == second
        if file := _file(url):
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- Versions
# As the first version of the store made it and wrote into it.
_VERSION_1 = """
CREATE TABLE schema_version (id INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE runs (
    id VARCHAR NOT NULL, board VARCHAR NOT NULL, attn VARCHAR NOT NULL, seed BIGINT NOT NULL, accuracy DOUBLE NOT NULL,
    classes TEXT NOT NULL, predictions TEXT NOT NULL, params BIGINT NOT NULL, macs BIGINT NOT NULL,
    seconds DOUBLE NOT NULL, history TEXT NOT NULL, recipe TEXT NOT NULL, protocol VARCHAR NOT NULL,
    data VARCHAR NOT NULL, "commit" VARCHAR NOT NULL, versions TEXT NOT NULL, machine VARCHAR NOT NULL,
    finished VARCHAR NOT NULL, PRIMARY KEY (id)
);
INSERT INTO schema_version VALUES (1, 1);
INSERT INTO runs VALUES ('a', 'demo', 'none', 0, 0.5, '["joy", "fear"]',
    '[{"video": "joy/1.mp4", "label": "joy", "predicted": "fear", "probabilities": [0.25, 0.75]}]', 11, 22, 1.5,
    '[{"epoch": 0, "loss": NaN}]', '{"name": "demo"}', '70/30', 'synth', 'c0ffee', '{"torch": "2.9"}', 'm', '2026');
INSERT INTO runs VALUES ('b', 'demo', 'a "b" \\ ''c''', 9223372036854775807, 1.0, '[]', '[]', 1, 1, 0.0, '[]', '{}',
    '', '', '', '{}', '', '')
"""


def _make_version_1(url: str) -> None:
    if file := _file(url):
        file.parent.mkdir(parents=True)
    with _database(url).begin() as connection:
        for statement in _VERSION_1.replace("DOUBLE", "DOUBLE" if file else "DOUBLE PRECISION").split(";\n"):
            connection.exec_driver_sql(statement)


def test_version_1_becomes_the_version_of_today(url: str) -> None:
    _make_version_1(url)
    with Store(url, create=False) as store:
        plain, named = sorted(store.runs(), key=lambda run: run.id)
        assert (plain.row, plain.factors, plain.fold, plain.task) == ("none", {"attn": "none"}, 0, "video")
        assert (plain.split, plain.bytes, plain.latency) == ({}, None, None)
        assert math.isnan(plain.history[0]["loss"])
        guess = {"video": "joy/1.mp4", "label": "joy", "predicted": "fear", "probabilities": [0.25, 0.75]}
        results = (0, 0.5, ("joy", "fear"), (guess,), 11, 22, 1.5, ())
        told = ({"name": "demo"}, "70/30", "synth", "c0ffee", {"torch": "2.9"}, "m", "2026")
        assert replace(plain, history=()) == Run("a", "demo", "none", *results, *told, factors={"attn": "none"})
        label = "a \"b\" \\ 'c'"
        assert (named.row, named.factors, named.seed) == (label, {"attn": label}, 2**63 - 1)
        store.add(RUN)
        assert RUN in store.runs()
    with _database(url).connect() as connection:
        assert connection.exec_driver_sql("SELECT id, version FROM schema_version").all() == [(1, SCHEMA)]


def test_the_table_holds_all_of_a_run(url: str) -> None:
    Store(url).close()
    columns = {column["name"]: column["nullable"] for column in sa.inspect(_database(url)).get_columns("runs")}
    assert columns == {field.name: field.name in ("bytes", "latency") for field in fields(Run)}


def open_at_once(url: str) -> None:
    def write(writer: int) -> None:
        with Store(url) as store:
            store.add(_numbered(f"{writer}"))

    _at_once(8, write)


def test_processes_that_upgrade_at_once_do_it_once(url: str) -> None:
    _make_version_1(url)
    assert _ends(open_at_once, url) == 0
    with Store(url, create=False) as store:
        assert store.ids() == {"a", "b", *map(str, range(8))}
        assert {run.id: run.factors for run in store.runs() if run.id in "ab"}["a"] == {"attn": "none"}
    with _database(url).connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM schema_version").all() == [(SCHEMA,)]


def die_in_the_upgrade(url: str) -> None:
    def last_statement(*arguments: object) -> None:
        if "UPDATE schema_version" in str(arguments[2]):
            os._exit(DIED)

    sa.event.listen(sa.Engine, "before_cursor_execute", last_statement)
    Store(url)


def test_an_upgrade_that_is_cut_off_leaves_version_1(url: str) -> None:
    _make_version_1(url)
    assert _ends(die_in_the_upgrade, url) == DIED
    with _database(url).connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM schema_version").scalar() == 1
        assert connection.exec_driver_sql("SELECT attn FROM runs ORDER BY id").scalars().first() == "none"
    with Store(url, create=False) as store:
        assert store.ids() == {"a", "b"}


def test_stores_of_others(url: str) -> None:
    Store(url).close()
    with _database(url).begin() as connection:
        connection.exec_driver_sql(f"UPDATE schema_version SET version = {SCHEMA + 1}")
    with pytest.raises(ValueError, match=rf"schema {SCHEMA + 1}, this attnzoo knows schemas up to {SCHEMA}; upgrade"):
        Store(url)
    with _database(url).begin() as connection:
        connection.exec_driver_sql("DROP TABLE schema_version")
    with pytest.raises(ValueError, match="runs of another program"):
        Store(url)


# --- Addresses


def test_stores_that_are_none(tmp_path: Path) -> None:
    missing = tmp_path / "missing.sqlite"
    with pytest.raises(
        ValueError, match=r"no runs in .*missing.sqlite; make some with: attnzoo leaderboard run RECIPE"
    ):
        Store(missing, create=False)
    assert not missing.exists()

    text = tmp_path / "notes.txt"
    text.write_text("no database\n" * 100)
    with pytest.raises(ValueError, match=r"notes.txt cannot be used: file is not a database; give") as caught:
        Store(text)
    assert "\n" not in str(caught.value)
    assert text.read_text() == "no database\n" * 100

    with pytest.raises(ValueError, match="cannot be used: unable to open database file"):
        Store(tmp_path)
    with pytest.raises(ValueError, match=r"notes.txt/runs.sqlite cannot be used"):
        Store(text / "runs.sqlite")
    with pytest.raises(ValueError, match=r"oracle-bone://\.\.\. is not a URL as in postgresql"):
        Store("oracle-bone://x")
    for url in ("mysql://x/y", "postgresql+asyncpg://x/y"):
        with pytest.raises(ValueError, match=r"cannot be opened with .*; give the path of a SQLite file or a URL with"):
            Store(url)
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ValueError, match=f"{url} must name a file"):
            Store(url)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r'store postgresql\+psycopg://x/y needs psycopg; .*"attnzoo\[postgres\]"'):
        Store("postgresql+psycopg://x/y")


def test_a_server_is_reached_by_a_url_whose_password_is_not_told(postgres: sa.URL) -> None:
    bare = postgres.set(drivername="postgresql")
    with Store(bare.render_as_string(hide_password=False)) as store:
        assert store.name == postgres.render_as_string(hide_password=True)
    secret = "s3cr%2Ft"
    down = f"postgresql+psycopg://tester:{secret}@127.0.0.1:1/x"
    wrong = postgres.set(password="s3cr/t").render_as_string(hide_password=False)
    for url, reason in (
        (down, "refused"),
        (wrong, "password authentication failed"),
        (f"{down[:-4]}:x/y", "not a URL"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            Store(url)
        assert "s3cr" not in str(caught.value)
        assert "\n" not in str(caught.value)
