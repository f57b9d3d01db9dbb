"""The tables of the store as they are now, and the steps that make them so of an older store or of nothing."""

import json
from typing import Any

import sqlalchemy as sa


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
version_table = sa.Table(
    "schema_version",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1, so that there is one row
    sa.Column("version", sa.Integer, nullable=False),
)
runs_table = sa.Table(
    "runs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("board", sa.String, nullable=False),
    sa.Column("row", sa.String, nullable=False),
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
    sa.Column("factors", _Json, nullable=False),
    sa.Column("fold", sa.BigInteger, nullable=False),
    sa.Column("task", sa.String, nullable=False),
    sa.Column("split", _Json, nullable=False),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("latency", sa.Double),
)


# The steps are history: they stay as they are, in the SQL that SQLite and PostgreSQL share, whatever the tables become.
# Version 1 was not made in one transaction, so that a part of it may be there.
_VERSION_1 = (
    """CREATE TABLE IF NOT EXISTS schema_version (id INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS runs (
        id VARCHAR NOT NULL PRIMARY KEY,
        board VARCHAR NOT NULL,
        attn VARCHAR NOT NULL,
        seed BIGINT NOT NULL,
        accuracy DOUBLE PRECISION NOT NULL,
        classes TEXT NOT NULL,
        predictions TEXT NOT NULL,
        params BIGINT NOT NULL,
        macs BIGINT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL,
        history TEXT NOT NULL,
        recipe TEXT NOT NULL,
        protocol VARCHAR NOT NULL,
        data VARCHAR NOT NULL,
        "commit" VARCHAR NOT NULL,
        versions TEXT NOT NULL,
        machine VARCHAR NOT NULL,
        finished VARCHAR NOT NULL
    )""",
)
_VERSION_2 = (
    """ALTER TABLE runs RENAME COLUMN attn TO "row" """,
    """ALTER TABLE runs ADD COLUMN factors TEXT NOT NULL DEFAULT '{}'""",
    """ALTER TABLE runs ADD COLUMN fold BIGINT NOT NULL DEFAULT 0""",
    """ALTER TABLE runs ADD COLUMN task VARCHAR NOT NULL DEFAULT 'video'""",
    """ALTER TABLE runs ADD COLUMN split TEXT NOT NULL DEFAULT '{}'""",
    """ALTER TABLE runs ADD COLUMN bytes BIGINT""",
    """ALTER TABLE runs ADD COLUMN latency DOUBLE PRECISION""",
)


def _to_version_1(connection: sa.Connection) -> None:
    for statement in _VERSION_1:
        connection.exec_driver_sql(statement)


def _to_version_2(connection: sa.Connection) -> None:
    for statement in _VERSION_2:
        connection.exec_driver_sql(statement)
    # Attention was all that a grid could vary.
    rows = connection.exec_driver_sql('SELECT id, "row" FROM runs').all()
    for key, label in rows:
        factors = {"key": key, "factors": json.dumps({"attn": label})}
        connection.execute(sa.text("UPDATE runs SET factors = :factors WHERE id = :key"), factors)


_STEPS = (_to_version_1, _to_version_2)
SCHEMA = len(_STEPS)


def read_version(connection: sa.Connection) -> int:
    """The schema of a store; 0 of a database that is still empty.

    Args:
        connection: to the database.

    Raises:
        ValueError: there are runs of another program.

    >>> with sa.create_engine("sqlite://").begin() as connection:
    ...     read_version(connection)
    0
    """
    inspector = sa.inspect(connection)
    has_runs = inspector.has_table(runs_table.name)  # asked first: another process may be making both tables
    if inspector.has_table(version_table.name):
        return connection.execute(sa.select(version_table.c.version)).scalar() or 0
    if has_runs:
        store = connection.engine.url.render_as_string(hide_password=True)
        raise ValueError(f"store {store} holds the runs of another program; give another file or database")
    return 0


def upgrade(connection: sa.Connection) -> None:
    """Take a store, or an empty database, to the schema of today.

    Args:
        connection: in a transaction that shuts out other writers, so that there is only before and after.

    Raises:
        ValueError: there are runs of another program.

    >>> with sa.create_engine("sqlite://").begin() as connection:
    ...     upgrade(connection)
    ...     read_version(connection) == SCHEMA
    True
    """
    before = read_version(connection)
    for step in _STEPS[before:]:
        step(connection)
    if before == 0:
        connection.execute(version_table.insert().values(id=1, version=SCHEMA))
    elif before < SCHEMA:
        connection.execute(version_table.update().values(version=SCHEMA))
