"""Copying all that is in the tables of one database to the same tables of another, and comparing.

The databases may be of different kinds: the types of the one that is copied to say what a value is
(SQLite has no truth values, for one), and neither sorts texts as the other does.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    TypeDecorator,
    cast,
    func,
    inspect,
    select,
)

_BATCH = 1000  # rows in memory at once


class _WrittenJSON(TypeDecorator[str]):
    """JSON as it is written: read, its null could not be told from no value at all."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> ColumnElement[Any]:
        return cast(bindparam, JSON)

    def column_expression(self, column: Any) -> ColumnElement[Any]:
        return cast(column, Text)


def layout(connection: Connection) -> dict[str, set[str]]:
    """Return the names of all tables, and of the columns of each."""
    found = inspect(connection)
    return {
        table: {column["name"] for column in found.get_columns(table)}
        for table in found.get_table_names()
    }


def tables(connection: Connection) -> list[Table]:
    """Return all tables, each after those that it refers to."""
    found = MetaData()
    found.reflect(connection)
    for table in found.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type = _WrittenJSON()
    return found.sorted_tables


def copy(source: Connection, target: Connection, table: Table) -> None:
    """Copy the rows of a table; the server's own numbers for new rows go on after them."""
    given = [column for column in table.columns if column.computed is None]  # by the server
    names = [column.name for column in given]
    for rows in _batches(source, table, given):
        target.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])
    name = target.dialect.identifier_preparer.format_table(table)
    for column in table.primary_key:
        if isinstance(column.type, Integer):
            sequence = target.scalar(select(func.pg_get_serial_sequence(name, column.name)))
            if sequence is not None:
                # Without a row from 1 on it stays at its beginning: setval takes no note of NULL.
                target.execute(select(func.setval(sequence, func.max(column))).where(column > 0))


def content(connection: Connection, table: Table) -> tuple[int, int]:
    """Return how many rows a table has, and a number that stands for what they say.

    It is a sum over the rows, so that their order does not matter.
    """
    rows, total = 0, 0
    for batch in _batches(connection, table, list(table.columns)):
        rows += len(batch)
        for row in batch:
            digest = blake2b(repr(tuple(row)).encode(), digest_size=16).digest()
            total += int.from_bytes(digest)
    return rows, total % 2**128


def _batches(
    connection: Connection, table: Table, columns: Sequence[Any]
) -> Iterator[Sequence[Row[Any]]]:
    how = {"yield_per": _BATCH}
    with connection.execute(select(*columns), execution_options=how) as found:
        yield from found.partitions()
