"""Finished runs in a database: one SQLite file by default, any SQLAlchemy URL otherwise."""

import contextlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

SCHEMA = 1
BUSY_SECONDS = 60.0  # how long a process waits for the others that write into the same SQLite file


@dataclass(frozen=True, slots=True)
class Run:
    """One finished training run. The nested fields hold what JSON can hold.

    Attributes:
        id: hash of the resolved recipe and the data's fingerprint.
        board: the recipe's name.
        attn: label of the attention, "none" for the plain network.
        seed: of the training.
        accuracy: top-1 on the test split, 0 to 1.
        classes: names, in the order of the probabilities.
        predictions: one per test video: {"video": "class/name", "label", "predicted", "probabilities": [...]}.
        params: number of parameters.
        macs: multiply-accumulates of one video.
        seconds: training time.
        history: one per epoch: {"epoch", "loss", "train_accuracy", ...}.
        recipe: resolved.
        protocol: how the data was split, and that the test part selected nothing.
        data: description and fingerprint of the data.
        commit: of the code, "-dirty" behind it if there were changes; or "unknown".
        versions: package -> version.
        machine: what it ran on.
        finished: ISO 8601, UTC.

    Raises:
        ValueError: an accuracy that is not from 0 to 1.

    >>> Run("1f", "demo", "se", 0, 0.9, ("joy",), (), 9, 99, 1.5, (), {}, "70/30", "synth", "c0ffee", {}, "m", "t").attn
    'se'
    """

    id: str
    board: str
    attn: str
    seed: int
    accuracy: float
    classes: tuple[str, ...]
    predictions: tuple[dict[str, Any], ...]
    params: int
    macs: int
    seconds: float
    history: tuple[dict[str, float], ...]
    recipe: dict[str, Any]
    protocol: str
    data: str
    commit: str
    versions: dict[str, str]
    machine: str
    finished: str

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy {self.accuracy} of run {self.id} must be a share of the test videos, 0 to 1")


class _Json(sa.types.TypeDecorator[Any]):
    """JSON as text: the JSON types of databases refuse NaN, which is the loss of a run that diverged."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return json.dumps(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        content = json.loads(value)
        return tuple(content) if isinstance(content, list) else content


_metadata = sa.MetaData()
_version = sa.Table(
    "schema_version",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1, so that there is one row
    sa.Column("version", sa.Integer, nullable=False),
)
_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("board", sa.String, nullable=False),
    sa.Column("attn", sa.String, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("accuracy", sa.Double, nullable=False),
    sa.Column("classes", _Json, nullable=False),
    sa.Column("predictions", _Json, nullable=False),
    sa.Column("params", sa.BigInteger, nullable=False),
    sa.Column("macs", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("history", _Json, nullable=False),
    sa.Column("recipe", _Json, nullable=False),
    sa.Column("protocol", sa.String, nullable=False),
    sa.Column("data", sa.String, nullable=False),
    sa.Column("commit", sa.String, nullable=False),
    sa.Column("versions", _Json, nullable=False),
    sa.Column("machine", sa.String, nullable=False),
    sa.Column("finished", sa.String, nullable=False),
)


class Store:
    """The database of finished runs; several processes may write into one.

    A SQLite file wants a local disk: its write-ahead log does not work on network file systems.

    Args:
        url: the path of a SQLite file, or a SQLAlchemy URL.
        create: make the store, with its parent folders, where there is none; else a missing store is an error.

    Raises:
        ValueError: a missing store, one of a newer attnzoo, one of another program, a file that is no SQLite database,
            or one that cannot be opened.
        ImportError: no driver for the database of a URL.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
    ...     store.boards()
    []
    """

    def __init__(self, url: str | Path, *, create: bool = True) -> None:
        self._name = str(url)
        try:
            parsed = sa.make_url(self._name) if "://" in self._name else sa.URL.create("sqlite", database=self._name)
            self._file = None
            if parsed.get_backend_name() == "sqlite":
                if not parsed.database:
                    raise ValueError(f"store {self._name} must name a file, as in sqlite:///runs.sqlite")
                self._file, self._name = Path(parsed.database), parsed.database
            else:
                self._name = parsed.render_as_string(hide_password=True)
            # A connection for each operation: nothing to share with a forked process, nothing to leave open.
            self._engine = sa.create_engine(
                parsed, poolclass=sa.NullPool, connect_args={"timeout": BUSY_SECONDS} if self._file else {}
            )
            self._open(create)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"store {self._name} needs {error.name}; install it, or for PostgreSQL: "
                'pip install "attnzoo[postgres]" and a URL that begins with postgresql+psycopg://'
            ) from error
        except (sa.exc.ArgumentError, sa.exc.DatabaseError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise ValueError(
                f"store {self._name} cannot be opened: {reason}; give a SQLite file that attnzoo wrote, the path of a "
                "new one, or a SQLAlchemy URL"
            ) from error

    def _open(self, create: bool) -> None:
        if self._file and create:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        # Reading must not leave an empty file where there was none.
        version = self._read_version() if create or not self._file or self._file.exists() else None
        if version is None:
            if not create:
                raise ValueError(f"there are no runs in {self._name}; make some with: attnzoo leaderboard run RECIPE")
            self._create()
        elif version > SCHEMA:
            raise ValueError(
                f"store {self._name} has schema {version}, this attnzoo knows schemas up to {SCHEMA}; upgrade attnzoo"
            )

    def _read_version(self) -> int | None:
        inspector = sa.inspect(self._engine)
        foreign = inspector.has_table(_runs.name)  # of our two tables, `_create` makes this one last
        if inspector.has_table(_version.name):
            with self._engine.connect() as connection:
                return connection.execute(sa.select(_version.c.version)).scalar()
        if foreign:
            raise ValueError(f"store {self._name} holds the runs of another program; give the path of a new file")
        return None

    def _create(self) -> None:
        """Tables and version, by steps that are harmless to repeat: two processes may make one store at once."""
        if self._file:
            # The write-ahead log is a property of the file and lasts. Locked: the other process is just setting it.
            with self._engine.connect() as connection, contextlib.suppress(sa.exc.OperationalError):
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
            for table in (_version, _runs):
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            connection.execute(_version.insert().values(id=1, version=SCHEMA))

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
        try:
            with self._engine.begin() as connection:
                connection.execute(_runs.insert().values({f.name: getattr(run, f.name) for f in fields(run)}))
        except sa.exc.IntegrityError:
            if run.id not in self.ids():
                raise

    def ids(self) -> set[str]:
        """The ids of all runs.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.ids()
        set()
        """
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(_runs.c.id)).scalars())

    def runs(self, board: str | None = None) -> list[Run]:
        """Runs by board, attention (the plain network first, then by name), seed and time: the same on any database.

        Args:
            board: only the runs of this one.

        Raises:
            ValueError: no run of such a board; the message names those that there are.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.runs()
        []
        """
        query = sa.select(_runs) if board is None else sa.select(_runs).where(_runs.c.board == board)
        with self._engine.connect() as connection:
            found = [Run(**row._mapping) for row in connection.execute(query)]
        if board is not None and not found:
            raise ValueError(f"store {self._name} has no board {board!r}; it has: {', '.join(self.boards()) or 'none'}")
        return sorted(found, key=lambda r: (r.board, r.attn != "none", r.attn, r.seed, r.finished, r.id))

    def boards(self) -> list[str]:
        """The names of all boards, sorted.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
        ...     store.boards()
        []
        """
        with self._engine.connect() as connection:
            return sorted(connection.execute(sa.select(_runs.c.board).distinct()).scalars())

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
