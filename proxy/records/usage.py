"""Usage on record: rows of turns go in exactly once, with the sums of their day; sums and rows come out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Date,
    Select,
    String,
    Table,
    Text,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.records.database import Database
from hugind.proxy.records.schema import Moment, contents, requests, usage_daily

By = Literal["day", "hour", "user", "model", "key"]
Content = tuple[str, str]
"""What was asked, and what was answered."""

STATEMENT_ROWS = 250
"""So many rows in a statement: what is made ready for the database at a time holds the event loop up."""
SQLITE_ROWS = 128
STATEMENT_CONTENTS = 20


@dataclass(slots=True)
class UsageRow:
    """A turn as it is on record: a row of `llama_requests`. The last ones are known only when it has ended."""

    request_id: str
    created_at: float
    """Seconds since the epoch; a point in time is made of it when it is written."""
    username: str
    path: str
    dialect: str
    model: str
    end_user: str | None = None
    """On whose behalf a delegating key asked."""
    key_id: str | None = None
    client_ip: str | None = None
    stream: bool = False
    request_bytes: int = 0
    status_code: int = 0
    duration_ms: float = 0.0
    queue_ms: float = 0.0
    ttft_ms: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's."""
    completion_tokens: int = 0
    response_bytes: int = 0
    finish_reason: str | None = None
    error_code: str | None = None

    @property
    def has_failed(self) -> bool:
        """It was not served to its end: refused by the engine, broken off, or given up by who asked."""
        return self.status_code >= 400 or self.error_code is not None


Entry = tuple[UsageRow, Content | None]
"""A row, and what was said where that is kept."""

_ID, _MOMENT = requests.c.request_id, requests.c.created_at
_REST = [column for column in requests.c if column.name not in ("id", _ID.name, _MOMENT.name)]
_COLUMNS = [_ID, _MOMENT, *_REST]
_rest_of = attrgetter(*(column.name for column in _REST))
_SQLITE_INSERT = str(
    insert(requests).values({column: bindparam(column.name) for column in _COLUMNS}).compile(dialect=sqlite.dialect())
)
_SQLITE_ROW = _SQLITE_INSERT.rpartition("VALUES ")[2]
_TEXTS = [
    (column.name, column.type.length)
    for column in requests.c
    if isinstance(column.type, String) and column.type.length is not None
]
_texts = attrgetter(*(name for name, _ in _TEXTS))
_SUMS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")


_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""Between them is room for the day before and the day after."""
_MOST = 2**63 - 1
"""What fits into a row's number."""


def tidy(row: UsageRow) -> None:
    """Cut its texts to what the columns hold, without what a database refuses in a text."""
    for (name, length), given in zip(_TEXTS, _texts(row), strict=True):
        if given is not None and (len(given) > length or not given.isascii() or "\0" in given):
            setattr(row, name, storable(given)[:length])


async def write(database: Database, entries: Sequence[Entry]) -> int:
    """Write rows, contents and sums in one transaction; returns how many were new.

    What is on record by its `request_id` already is left alone and not counted again: whoever does not know whether
    an earlier call succeeded may repeat it.

    Raises:
        DatabaseAway: nothing is known of whether it was written.
        sqlalchemy.exc.SQLAlchemyError: the database refuses something; nothing was written.
    """
    given: dict[str, Entry] = {}
    for entry in entries:
        tidy(entry[0])
        given.setdefault(entry[0].request_id, entry)
    if not given:
        return 0
    async with database.begin() as connection:
        new = [given[request_id] for request_id in await _insert_rows(database, connection, list(given.values()))]
        await _insert_contents(database, connection, new)
        await _add_to_sums(database, connection, [row for row, _ in new])
    return len(new)


async def report(
    database: Database,
    *,
    user: str | None = None,
    key_id: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: By | None = None,
) -> list[dict[str, Any]]:
    """Sums of the turns that came from `since` on and before `until`.

    Each has `requests`, `failed`, `prompt_tokens`, `cached_tokens`, `completion_tokens`, `duration_ms` and, under the
    name that `by` has, what they are of: a day (a date in UTC), an hour (its beginning), a user, a model, a key (None:
    without one). Days and hours come in order, others with the most tokens first. Without `by` there is one, of all.

    Whole days in UTC are taken from the daily sums, which know of rows that are removed by now; what is left of the
    first and of the last day, and hours, from the rows.

    Raises:
        DatabaseAway: it cannot be reached.
        ValueError: a time without its zone.
    """
    only = {"username": user, "key_id": key_id, "model": model}
    found = union_all(*_parts(database, by, only, _in_utc(since), _in_utc(until))).subquery()
    sums = [func.sum(found.c[name]).label(name) for name in _SUMS]
    query = select(*sums)
    if by in ("day", "hour"):
        query = query.add_columns(found.c.of).group_by(found.c.of).order_by(found.c.of)
    elif by is not None:
        tokens = func.sum(found.c.prompt_tokens) + func.sum(found.c.completion_tokens)
        query = query.add_columns(found.c.of).group_by(found.c.of).order_by(tokens.desc(), found.c.of)
    async with database.read() as connection:
        return [_sum(by, line) for line in (await connection.execute(query)).mappings()]


async def report_of_person(database: Database, user: str, end_user: str, since: datetime) -> dict[str, Any]:
    """As `report` without `by`, of what a user's keys asked for on behalf of one person; of the rows that are kept.

    Raises:
        DatabaseAway: it cannot be reached.
        ValueError: a time without its zone.
    """
    only: dict[str, str | None] = {"username": user, "end_user": end_user}
    found = _turns(requests.c.model, only, _in_utc(since), None).subquery()
    async with database.read() as connection:
        sums = (await connection.execute(select(*(func.sum(found.c[name]).label(name) for name in _SUMS)))).mappings()
        return _sum(None, sums.one())


async def rows(
    database: Database,
    *,
    user: str | None = None,
    key_id: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    before_id: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of `llama_requests`, the last written first. `before_id`: go on behind the row of this `id`.

    Raises:
        DatabaseAway: it cannot be reached.
        ValueError: a time without its zone.
    """
    only = {"username": user, "key_id": key_id, "model": model}
    query = select(requests).where(*_of(requests, only), *_between(_in_utc(since), _in_utc(until)))
    if before_id is not None:
        query = query.where(requests.c.id < min(before_id, _MOST))
    async with database.read() as connection:
        found = await connection.execute(query.order_by(requests.c.id.desc()).limit(limit))
        return [dict(line) for line in found.mappings()]


async def _insert_rows(database: Database, connection: AsyncConnection, entries: Sequence[Entry]) -> list[str]:
    """The `request_id` of each that was not there."""
    new: list[str] = []
    for at in range(0, len(entries), STATEMENT_ROWS):
        part = entries[at : at + STATEMENT_ROWS]
        lines = [(row.request_id, _moment(row.created_at), *_rest_of(row)) for row, _ in part]
        if database.kind == "sqlite":
            new += await _insert_into_sqlite(connection, lines)
        else:
            document = orjson.dumps(lines).decode()
            new += (await connection.execute(_insert_from_json(database), {"document": document})).scalars()
    return new


async def _insert_into_sqlite(connection: AsyncConnection, lines: list[tuple[Any, ...]]) -> list[str]:
    """One statement for all, in the driver's own words. Nobody else writes meanwhile: `begin` has the database alone.

    Not `executemany`, and no RETURNING: with every row that goes in or comes out SQLite's thread takes the interpreter
    from the event loop, which was measured to cost the gateway a third of its time.
    """
    ids = orjson.dumps([line[0] for line in lines]).decode()
    each = func.json_each(ids).table_valued("value")
    query = select(requests.c.request_id).where(requests.c.request_id.in_(select(each.c.value)))
    known = set((await connection.execute(query)).scalars())
    new = [line for line in lines if line[0] not in known]
    at = 0
    while at < len(new):
        # Powers of two: every other number of rows would be one more statement that the driver keeps ready.
        rows_at_once = min(1 << (len(new) - at).bit_length() - 1, SQLITE_ROWS)
        statement = _SQLITE_INSERT + f",{_SQLITE_ROW}" * (rows_at_once - 1)
        await connection.exec_driver_sql(statement, tuple(chain.from_iterable(new[at : at + rows_at_once])))
        at += rows_at_once
    return [line[0] for line in new]


def _insert_from_json(database: Database) -> Any:
    """An INSERT that takes all rows as one JSON text: parameters by the thousand cost ten times as much of our time."""
    document = bindparam("document", type_=Text)
    each = func.json_array_elements(document.cast(JSON)).table_valued("value")
    given: list[ColumnElement[Any]] = [
        func.json_extract_path_text(each.c.value, str(place)).cast(column.type) for place, column in enumerate(_COLUMNS)
    ]
    statement = database.insert(requests).from_select(_COLUMNS, select(*given).where(true()))
    return statement.on_conflict_do_nothing(index_elements=["request_id"]).returning(requests.c.request_id)


def _moment(created_at: float) -> str:
    """As SQLite keeps it; on our connections PostgreSQL takes a time without a zone for UTC."""
    return datetime.fromtimestamp(created_at, UTC).isoformat(" ", "microseconds")[: len("2000-01-01 00:00:00.000000")]


async def _insert_contents(database: Database, connection: AsyncConnection, entries: Iterable[Entry]) -> None:
    lines = [
        {
            "request_id": row.request_id,
            "created_at": datetime.fromtimestamp(row.created_at, UTC),
            "request": storable(content[0]),
            "response": storable(content[1]),
        }
        for row, content in entries
        if content is not None
    ]
    statement = database.insert(contents).on_conflict_do_nothing(index_elements=["request_id"])
    for at in range(0, len(lines), STATEMENT_CONTENTS):
        await connection.execute(statement, lines[at : at + STATEMENT_CONTENTS])


async def _add_to_sums(database: Database, connection: AsyncConnection, added: Iterable[UsageRow]) -> None:
    sums: dict[tuple[str, str, str, str], list[float]] = {}
    for row in added:
        key = (_moment(row.created_at)[: len("2000-01-01")], row.username, row.key_id or "", row.model)
        so_far = sums.get(key)
        if so_far is None:
            so_far = sums[key] = [0] * len(_SUMS)
        so_far[0] += 1
        so_far[1] += row.has_failed
        so_far[2] += row.prompt_tokens
        so_far[3] += row.cached_tokens
        so_far[4] += row.completion_tokens
        so_far[5] += row.duration_ms
    if not sums:
        return
    statement = database.insert(usage_daily)
    statement = statement.on_conflict_do_update(
        index_elements=list(usage_daily.primary_key),
        set_={name: usage_daily.c[name] + statement.excluded[name] for name in _SUMS},
    )
    # In an order that all gateways keep to, or two of them could wait for each other.
    lines = [
        {"day": dt.date.fromisoformat(day), "username": username, "key_id": key_id, "model": model}
        | dict(zip(_SUMS, counts, strict=True))
        for (day, username, key_id, model), counts in sorted(sums.items())
    ]
    await connection.execute(statement, lines)


def _parts(
    database: Database, by: By | None, only: dict[str, str | None], since: datetime | None, until: datetime | None
) -> list[Select[Any]]:
    """What is to be summed up: whole days, and rows."""
    if by == "hour":
        return [_turns(_hour(database), only, since, until)]
    (first, end), edges = split_days(since, until)
    days = select(*(usage_daily.c[name] for name in _SUMS)).where(*_of(usage_daily, only))
    if first is not None:
        days = days.where(usage_daily.c.day >= first)
    if end is not None:
        days = days.where(usage_daily.c.day < end)
    of_days = {"day": usage_daily.c.day, "user": usage_daily.c.username, "key": usage_daily.c.key_id}
    parts = [days.add_columns(of_days.get(by or "", usage_daily.c.model).label("of"))]
    for start, stop in edges:
        of_turns: dict[str, ColumnElement[Any]] = {
            "day": literal(start.date(), Date),
            "user": requests.c.username,
            "key": func.coalesce(requests.c.key_id, ""),
        }
        parts.append(_turns(of_turns.get(by or "", requests.c.model), only, start, stop))
    return parts


def split_days(
    since: datetime | None, until: datetime | None
) -> tuple[tuple[dt.date | None, dt.date | None], list[tuple[datetime, datetime]]]:
    """The whole days in UTC of a span (from the first on, before the second), and what of it is in no whole day."""
    edges = []
    first = end = None
    if since is not None:
        first = since.date()
        if since > _midnight(first):
            first += timedelta(days=1)
            edges.append((since, _midnight(first) if until is None else min(_midnight(first), until)))
    if until is not None:
        end = until.date()
        if until > _midnight(end):
            edge = (_midnight(end) if since is None else max(_midnight(end), since), until)
            if edge not in edges:
                edges.append(edge)
    return (first, end), [(start, stop) for start, stop in edges if start < stop]


def _midnight(day: dt.date) -> datetime:
    return datetime.combine(day, dt.time(), UTC)


def _turns(
    of: ColumnElement[Any], only: dict[str, str | None], since: datetime | None, until: datetime | None
) -> Select[Any]:
    has_failed = or_(requests.c.status_code >= 400, requests.c.error_code.is_not(None))
    tokens = (requests.c.prompt_tokens, requests.c.cached_tokens, requests.c.completion_tokens)
    return select(
        literal(1, BigInteger).label("requests"),
        case((has_failed, 1), else_=0).label("failed"),
        *tokens,
        requests.c.duration_ms,
        of.label("of"),
    ).where(*_of(requests, only), *_between(since, until))


def _hour(database: Database) -> ColumnElement[Any]:
    if database.kind == "sqlite":
        return func.strftime("%Y-%m-%d %H:00:00.000000", requests.c.created_at, type_=Moment())
    return func.date_trunc("hour", requests.c.created_at, "UTC", type_=Moment())


def _of(table: Table, only: dict[str, str | None]) -> list[ColumnElement[bool]]:
    return [table.c[name] == storable(value) for name, value in only.items() if value is not None]


def _between(since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    column: Column[Any] = requests.c.created_at
    return [*([column >= since] if since is not None else []), *([column < until] if until is not None else [])]


def _sum(by: By | None, line: Any) -> dict[str, Any]:
    sums = {name: int(line[name] or 0) for name in _SUMS[:-1]}
    found: dict[str, Any] = {**sums, "duration_ms": float(line["duration_ms"] or 0)}
    if by is None:
        return found
    return {by: (line["of"] or None) if by == "key" else line["of"], **found}


def _in_utc(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise ValueError("a point in time needs its zone")
    if moment is None:
        return None
    try:
        return min(max(moment.astimezone(UTC), _FIRST), _LAST)
    except OverflowError:
        return _FIRST if moment.year == 1 else _LAST


def storable(given: str) -> str:
    """A text as every database takes it: no NUL, no half of a character."""
    if given.isascii() and "\0" not in given:
        return given
    return given.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
