"""Finished runs in a database: one SQLite file by default, PostgreSQL by its URL."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from attnzoo.leaderboard.schema import SCHEMA, read_version, runs_table, upgrade

DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
WAIT_SECONDS = 60  # for the others that write into the same SQLite file
CONNECT_SECONDS = 10  # for a server that does not answer
UPGRADE_LOCK = 4702111234474983745  # any number, the same in every process


@dataclass(frozen=True, slots=True)
class Run:
    """One finished training run. The nested fields hold what JSON can hold.

    Attributes:
        id: hash of all that decides the result.
        board: the recipe's name.
        row: label of the grid's row, "none" for the plain network.
        seed: of the training.
        accuracy: top-1 on the test split, 0 to 1.
        classes: names, in the order of the probabilities.
        predictions: one per test video: {"video": "class/name", "label", "predicted", "probabilities": [...]}.
        params: number of parameters.
        macs: multiply-accumulates of one sample.
        seconds: training time.
        history: one per epoch: {"epoch", "loss", "train_accuracy", ...}.
        recipe: resolved.
        protocol: how the data was split, and that the test part selected nothing.
        data: description and fingerprint of the data.
        commit: of the code, "-dirty" behind it if there were changes; or "unknown".
        versions: package -> version.
        machine: what it ran on.
        finished: ISO 8601, UTC.
        factors: what the row varies, as in {"attn": "mpe", "fusion": "gmu"}.
        fold: of the test part, from 0.
        task: "video" or "image".
        split: {"train": [...], "val": [...], "test": [...]}, the keys of the samples; {} where it is not known.
        bytes: moved by one forward pass, read and written; None where it is not known.
        latency: of one forward pass, measured, s; None where it is not.

    Raises:
        ValueError: an accuracy that is not from 0 to 1.

    >>> Run("1f", "demo", "se", 0, 0.9, ("joy",), (), 9, 99, 1.5, (), {}, "70/30", "synth", "c0ffee", {}, "m", "t").row
    'se'
    """

    id: str
    board: str
    row: str
    seed: int
    accuracy: float
    classes: tuple[str, ...]
    predictions: tuple[dict[str, Any], ...]
    params: int
    macs: int
    seconds: float
    history: tuple[dict[str, int | float], ...]
    recipe: dict[str, Any]
    protocol: str
    data: str
    commit: str
    versions: dict[str, str]
    machine: str
    finished: str
    factors: dict[str, str] = field(default_factory=dict)
    fold: int = 0
    task: Literal["video", "image"] = "video"
    split: dict[str, list[str]] = field(default_factory=dict)
    bytes: int | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy {self.accuracy} of run {self.id} must be a share of the test videos, 0 to 1")


class Merged(NamedTuple):
    """What came of `Store.merge`.

    Attributes:
        added: number of runs that are new.
        known: number of runs that were there already.
        different: ids of those of the latter that hold something else here; what was here is kept.

    >>> Merged(2, 0, ()).added
    2
    """

    added: int
    known: int
    different: tuple[str, ...]


class Store:
    """The database of finished runs; several processes may write into one.

    A store of an older attnzoo is upgraded in place. A SQLite file wants a local disk: its write-ahead log does not
    work on network file systems.

    Args:
        url: the path of a SQLite file, or the URL of a database: sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME.
            The password may stand in the URL, or where PostgreSQL looks for it: PGPASSWORD, ~/.pgpass.
        create: make the store, with its parent folders, where there is none; else a missing store is an error.

    Attributes:
        name: for messages: the file, or the URL without its password.

    Raises:
        ValueError: a missing store, one of a newer attnzoo, one of another program, a file that is no SQLite database,
            or one that cannot be opened; of any method, one that cannot be read or written.
        ImportError: no driver for PostgreSQL.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
    ...     store.boards()
    []
    """

    def __init__(self, url: str | Path, *, create: bool = True) -> None:
        parsed = _parse(str(url))
        self._file = Path(parsed.database or "") if parsed.drivername == "sqlite" else None
        self.name = str(self._file or parsed.render_as_string(hide_password=True))
        patience = {"timeout": WAIT_SECONDS} if self._file else {"connect_timeout": CONNECT_SECONDS}
        try:
            # A connection for each operation: nothing to share with a forked process, nothing to leave open.
            self._engine = sa.create_engine(
                parsed,
                poolclass=sa.NullPool,
                connect_args={key: value for key, value in patience.items() if key not in parsed.query},
            )
        except ImportError as error:
            raise ImportError(
                f'store {self.name} needs psycopg; install it with: pip install "attnzoo[postgres]"'
            ) from error
        self._open(create)

    def _open(self, create: bool) -> None:
        version = 0
        if create and self._file:
            with self._explained():
                self._file.parent.mkdir(parents=True, exist_ok=True)
        if create or not self._file or self._file.exists():  # reading must not leave an empty file where there was none
            with self._transaction() as connection:
                version = read_version(connection)
        if version == 0 and not create:
            raise ValueError(f"there are no runs in {self.name}; make some with: attnzoo leaderboard run RECIPE")
        if version > SCHEMA:
            raise ValueError(
                f"store {self.name} has schema {version}, this attnzoo knows schemas up to {SCHEMA}; upgrade attnzoo"
            )
        if version < SCHEMA:
            self._upgrade()

    def _upgrade(self) -> None:
        """Several processes may be at it: all but the first wait, and then find nothing left to do."""
        if self._file:
            # The write-ahead log is a property of the file and lasts. Locked: the other process is just setting it.
            with self._explained(), self._engine.connect() as connection, suppress(sa.exc.OperationalError):
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self._transaction() as connection:
            if self._file:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # else Python begins at the first row that changes
            else:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
            upgrade(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A connection that commits at the end, or else leaves the store as it was."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong with the database, in one line."""
        try:
            yield
        except (sa.exc.DBAPIError, OSError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            advice = (
                "give a SQLite file that attnzoo wrote, the path of a new one, or the URL of a PostgreSQL database"
                if self._file
                else "see that the server is up and knows this database, user and password"
            )
            raise ValueError(f"store {self.name} cannot be used: {reason}; {advice}") from error

    def add(self, run: Run) -> None:
        """Store a run, in one transaction; a run whose id is already there is left as it is.

        Args:
            run: finished.

        >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy",), (), 1, 1, 1.0, (), {}, "70/30", "d", "c", {}, "m", "t")
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.add(run)
        ...     store.add(run)
        ...     store.runs() == [run]
        True
        """
        with self._transaction() as connection:
            self._insert(connection, run)

    def merge(self, runs: Iterable[Run]) -> Merged:
        """Take over the runs of another store, all of them or, if it is interrupted, none; again is no harm.

        An id says what was trained, on which data and by which code. Where both stores have it, trained twice, the run
        that is here stays, so that nobody picks the luckier one.

        Args:
            runs: of the other store.

        >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy",), (), 1, 1, 1.0, (), {}, "70/30", "d", "c", {}, "m", "t")
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.merge([run]), store.merge([run])
        (Merged(added=1, known=0, different=()), Merged(added=0, known=1, different=()))
        """
        added, known, different = 0, 0, []
        in_order = sorted(runs, key=lambda run: run.id)  # lest two merges wait for each other
        with self._transaction() as connection:
            for run in in_order:
                if self._insert(connection, run):
                    added += 1
                    continue
                known += 1
                (here,) = _read(connection, runs_table.c.id == run.id)
                if _text(here) != _text(run):
                    different.append(run.id)
        return Merged(added, known, tuple(different))

    def _insert(self, connection: sa.Connection, run: Run) -> bool:
        """Whether the run is new."""
        insert = sqlite.insert if self._file else postgresql.insert
        values = {f.name: getattr(run, f.name) for f in fields(run)}
        statement = insert(runs_table).values(values).on_conflict_do_nothing(index_elements=["id"])
        return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1

    def ids(self) -> set[str]:
        """The ids of all runs.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.ids()
        set()
        """
        with self._transaction() as connection:
            return set(connection.execute(sa.select(runs_table.c.id)).scalars())

    def runs(self, board: str | None = None) -> list[Run]:
        """Runs by board, row (the plain network first, then by name), fold, seed and time: the same on any database.

        Args:
            board: only the runs of this one.

        Raises:
            ValueError: no run of such a board; the message names those that there are.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.runs()
        []
        """
        with self._transaction() as connection:
            found = _read(connection, sa.true() if board is None else runs_table.c.board == board)
        if board is not None and not found:
            raise ValueError(f"store {self.name} has no board {board!r}; it has: {', '.join(self.boards()) or 'none'}")
        return sorted(found, key=lambda r: (r.board, r.row != "none", r.row, r.fold, r.seed, r.finished, r.id))

    def boards(self) -> list[str]:
        """The names of all boards, sorted.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.boards()
        []
        """
        with self._transaction() as connection:
            return sorted(connection.execute(sa.select(runs_table.c.board).distinct()).scalars())

    def close(self) -> None:
        """Let go of the database; `with Store(...) as store` does it by itself.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Store(f"{folder}/runs.sqlite").close()
        """
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parse(url: str) -> sa.URL:
    """The address of a database that the store knows how to use; no message shows a password."""
    if "://" not in url:
        return sa.URL.create("sqlite", database=url)
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        scheme = url.partition("://")[0]
        raise ValueError(f"store {scheme}://... is not a URL as in postgresql+psycopg://user@host:5432/name") from error
    if parsed.drivername not in DRIVERS:
        raise ValueError(
            f"store {parsed.render_as_string(hide_password=True)} cannot be opened with {parsed.drivername}; give the "
            f"path of a SQLite file or a URL with {', '.join(DRIVERS)}"
        )
    parsed = parsed.set(drivername=DRIVERS[parsed.drivername])
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError(f"store {url} must name a file, as in sqlite:///runs.sqlite")
    return parsed


def _read(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Run]:
    return [Run(**row._mapping) for row in connection.execute(sa.select(runs_table).where(which))]


def _text(run: Run) -> str:
    """All of a run, such that NaN is the same as NaN."""
    return json.dumps({f.name: getattr(run, f.name) for f in fields(run)}, sort_keys=True)
