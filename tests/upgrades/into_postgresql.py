"""Put the rows of an earlier version, kept as SQLite's, into PostgreSQL as it was then."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

CHECKOUT = Path(__file__).parents[2]

MIGRATE_AS_FAR = """
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

MigrationExecutor(connection).migrate({targets!r})
"""


def load(database: sqlite3.Connection, environment: Mapping[str, str]) -> None:
    """Make the tables by the migrations of then, and copy every row.

    Args:
        database: the rows as the earlier version left them.
        environment: with the DATABASE_URL of an empty PostgreSQL.
    """
    applied = database.execute("select app, name from django_migrations order by id").fetchall()
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c"]
    code = MIGRATE_AS_FAR.format(targets=applied)
    done = subprocess.run(
        [*command, code], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with psycopg.connect(environment["DATABASE_URL"]) as target:
        target.execute("set time zone 'UTC'")
        target.execute("set session_replication_role = replica")  # rows in any order
        for table in _tables(database):
            _copy(database, target, table)


def _tables(database: sqlite3.Connection) -> Iterator[str]:
    found = database.execute("select name from sqlite_master where type = 'table'")
    for (name,) in found.fetchall():
        if not name.startswith(("sqlite_", "django_migrations")):
            yield name


def _copy(source: sqlite3.Connection, target: "psycopg.Connection[object]", table: str) -> None:
    """Copy one table; PostgreSQL reads SQLite's words for truth, time and JSON as they are."""
    rows = source.execute(f'select * from "{table}"')
    names = [column[0] for column in rows.description]
    into = sql.Identifier(table)
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    target.execute(sql.SQL("delete from {}").format(into))
    with target.cursor().copy(sql.SQL("copy {} ({}) from stdin").format(into, columns)) as copy:
        for row in rows:
            copy.write_row([None if value is None else str(value) for value in row])
    if "id" in names:
        count_on = "select setval(pg_get_serial_sequence(%s, 'id'), max(id)) from {}"
        target.execute(sql.SQL(count_on).format(into), [f'"{table}"'])
