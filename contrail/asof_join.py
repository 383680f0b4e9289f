"""The point-in-time join: for every row of a spine, what each view said at that row's decision time.

One algorithm serves Feast's historical retrieval and batch scoring, so that both give the same values. Only (row id,
keys, decision time) go through the sorts of DuckDB's ASOF joins; the values are joined back by row id.

The rules, for a view row with event time `ts` and version time `created`:

* it is visible from ``greatest(ts, created)`` on (with knowledge time; otherwise from `ts` on), the instant included;
* of the visible rows of a key the one with the largest (`ts`, `created`) counts; a null `created` is the smallest;
  rows that are equal in both are told apart by their values, so the answer never depends on the physical order;
* its values count while ``decision time - ts <= max_age``, exact to the microsecond;
* a null key or a null decision time matches nothing; a spine row never disappears and never doubles.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from contrail.duck import quote_identifier as q

_join_numbers = itertools.count()


@dataclass(frozen=True)
class JoinView:
    """One view of a point-in-time join.

    Attributes:
        name: for messages.
        scan_sql: what stands after FROM: a table function such as ``delta_scan('…', version => 3)``, a table, a view.
        keys: spine column -> view column; empty for a view with one row at a time for everyone.
        event_column: when the row's values came to hold (TIMESTAMPTZ; a naive timestamp counts as UTC).
        created_column: when this version of the values was known; None where there are no versions.
        max_age: how long a value counts; None or zero: for ever.
        features: (view column, output name), in output order.
    """

    name: str
    scan_sql: str
    keys: Mapping[str, str]
    event_column: str
    created_column: str | None
    max_age: timedelta | None
    features: tuple[tuple[str, str], ...]


def utc(expression: str) -> str:
    """A SQL expression as TIMESTAMPTZ; in the project's sessions a naive timestamp counts as UTC."""
    return f"CAST({expression} AS TIMESTAMPTZ)"


def instant(value: datetime) -> str:
    """An aware datetime as a SQL literal."""
    if value.tzinfo is None:
        raise ValueError(f"a naive datetime is no instant: {value.isoformat()}")
    return f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat(sep=' ')}'"


def _compared(column: str, operator: str, value: datetime, *, naive: bool) -> str:
    """A time column against an instant, in the column's own type: only so do the files' statistics leave data unread.

    A column without a zone counts as UTC. A cast of it to TIMESTAMPTZ would be right and read everything.
    """
    if naive:
        return f"{q(column)} {operator} TIMESTAMP '{value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
    return f"{utc(q(column))} {operator} {instant(value)}"


def naive_columns(types: Mapping[str, str]) -> frozenset[str]:
    """Of columns and their DuckDB types the timestamps without a zone, to the microsecond.

    Those of other precisions are left out: a bound in their own type would cut where the join, which works in
    microseconds, does not.
    """
    return frozenset(name for name, kind in types.items() if kind == "TIMESTAMP")


def _microseconds(span: timedelta) -> str:
    # An INTERVAL of months or days would follow the calendar; microseconds are exact.
    return f"to_microseconds({span // timedelta(microseconds=1)})"


def _newest_first(event: str, created: str | None, values: Sequence[str]) -> str:
    # Total over the columns that a reader can see: the answer never depends on the physical order.
    by_version = [f"{created} DESC NULLS LAST"] if created else []
    return ", ".join([f"{event} DESC", *by_version, *(f"{value} DESC NULLS LAST" for value in values)])


@dataclass(frozen=True)
class Rows:
    """Which columns of a source make its rows: keys, values, event time and, where there are versions, created time."""

    keys: Sequence[str]
    values: Sequence[str]
    event_column: str
    created_column: str | None

    def sql(
        self,
        scan_sql: str,
        *,
        start: datetime | None,
        end: datetime | None,
        latest: bool,
        knowledge_time: bool = True,
        naive: Collection[str] = (),
        with_nulls: bool = False,
    ) -> str:
        """SELECT of the rows of whole keys with an event time in [start, end], as known at `end`.

        Args:
            scan_sql: what stands after FROM.
            latest: only the newest row of every key, by the same rule as in `point_in_time_join`.
            knowledge_time: leave out versions that were created after `end`.
            naive: the `naive_columns` of the source; without them the answer is the same, from more data read.
            with_nulls: rows with a null key or without an event time too.
        """
        event, created = self.event_column, self.created_column
        where: list[str] = []
        if start is not None:
            where.append(_compared(event, ">=", start, naive=event in naive))
        if end is not None:
            where.append(_compared(event, "<=", end, naive=event in naive))
            if created and knowledge_time:
                known = _compared(created, "<=", end, naive=created in naive)
                where.append(f"({q(created)} IS NULL OR {known})")
        if with_nulls:
            where = [f"({q(event)} IS NULL OR ({' AND '.join(where) or 'true'}))"]
        else:  # an entity with a null key is nobody: no question finds it, and Feast cannot write it
            where = [*(f"{q(column)} IS NOT NULL" for column in (*self.keys, event)), *where]
        times = [event, *([created] if created else [])]
        columns = dict.fromkeys([*self.keys, *self.values, *times])
        sql = f"SELECT {', '.join(q(c) for c in columns)} FROM {scan_sql} WHERE {' AND '.join(where)}"
        if latest:
            by_key = f"PARTITION BY {', '.join(q(key) for key in self.keys)} " if self.keys else ""
            order = _newest_first(
                q(event), q(created) if created else None, [q(value) for value in self.values]
            )
            sql += f" QUALIFY row_number() OVER ({by_key}ORDER BY {order}) = 1"
        return sql


def column_types(con: duckdb.DuckDBPyConnection, scan_sql: str) -> dict[str, str]:
    """Column -> DuckDB type, of what stands after FROM; no row is read."""
    relation = con.sql(f"SELECT * FROM {scan_sql} LIMIT 0")
    return {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}


def _check(spine: str, columns: Mapping[str, str], needed: Sequence[str], views: Sequence[JoinView]) -> None:
    missing = sorted({*needed, *(key for view in views for key in view.keys)} - columns.keys())
    if missing:
        raise ValueError(f"the spine {spine} lacks the columns {missing}; it has {sorted(columns)}")
    outputs = [output for view in views for _, output in view.features]
    clash = sorted({name for name in outputs if outputs.count(name) > 1 or name in columns})
    if clash:
        raise ValueError(
            f"feature names {clash} are already columns of the spine or of another view; "
            "drop or rename them (with Feast: full_feature_names=True)"
        )


def _key_conditions(
    con: duckdb.DuckDBPyConnection,
    spine: str,
    view: JoinView,
    spine_types: Mapping[str, str],
    found: Mapping[str, str],
) -> list[str]:
    """Check the view's columns against its source, which has the columns `found`; say how its keys meet the spine's."""
    created = [view.created_column] if view.created_column else []
    needed = [*view.keys.values(), view.event_column, *created, *(column for column, _ in view.features)]
    missing = sorted(set(needed) - found.keys())
    if missing:
        raise ValueError(
            f"the source of view {view.name!r} lacks the columns {missing}; it has {sorted(found)}"
        )
    conditions: list[str] = []
    for number, (spine_column, view_column) in enumerate(view.keys.items()):
        ours, theirs = spine_types[spine_column], found[view_column]
        key = f"s.{q(spine_column)}"
        if (ours == "VARCHAR") != (theirs == "VARCHAR"):
            # Compared with a number a text is cast row by row: silently, or with an error deep inside the join.
            # A column of nothing but nulls has no type of its own.
            values = con.sql(f"SELECT count({q(spine_column)}) FROM {spine}").fetchone()
            if values != (0,):
                raise TypeError(
                    f"entity column {spine_column!r} is {ours}, but {view_column!r} in the source of view "
                    f"{view.name!r} is {theirs}: cast the entity column"
                )
            key = f"CAST({key} AS {theirs})"
        conditions.append(f"{key} = v.k{number}")
    return conditions


def _bounds(
    view: JoinView, first: datetime, last: datetime, *, knowledge_time: bool, naive: Collection[str]
) -> list[str]:
    """Conditions that leave out rows which no decision time in [first, last] can see."""
    event, created = view.event_column, view.created_column
    where = [_compared(event, "<=", last, naive=event in naive)]
    if created and knowledge_time:
        known = _compared(created, "<=", last, naive=created in naive)
        where.append(f"({q(created)} IS NULL OR {known})")
    try:
        oldest = first - view.max_age if view.max_age else None
    except OverflowError:  # before the year 1: nothing is too old
        oldest = None
    if oldest is not None:
        where.append(_compared(event, ">=", oldest, naive=event in naive))
    return where


def _view_rows(
    view: JoinView,
    first: datetime | None,
    last: datetime | None,
    *,
    knowledge_time: bool,
    naive: Collection[str],
) -> str:
    """SELECT of (k0…, visible, ts, f0…): per key the rows that ever count, each from `visible` on."""
    event, created = utc(q(view.event_column)), view.created_column
    # An ASOF join on several keys takes a null for equal to a null.
    where = [f"{q(column)} IS NOT NULL" for column in (*view.keys.values(), view.event_column)]
    if first is not None and last is not None:
        where += _bounds(view, first, last, knowledge_time=knowledge_time, naive=naive)
    keys = [f"k{i}" for i in range(len(view.keys))]
    values = [f"f{i}" for i in range(len(view.features))]
    source = ", ".join(
        [f"{q(column)} AS {key}" for key, column in zip(keys, view.keys.values(), strict=True)]
        + [f"{event} AS ts"]
        + ([f"{utc(q(created))} AS created"] if created else [])
        + [f"{q(column)} AS {value}" for value, (column, _) in zip(values, view.features, strict=True)]
    )
    late = created is not None and knowledge_time
    base = (
        f"SELECT *, {'greatest(ts, created)' if late else 'ts'} AS visible "
        f"FROM (SELECT {source} FROM {view.scan_sql} WHERE {' AND '.join(where)})"
    )
    order = _newest_first("ts", "created" if created else None, values)
    out = ", ".join([*keys, "visible", "ts", *values])
    one = f"{base} QUALIFY row_number() OVER (PARTITION BY {', '.join([*keys, 'visible'])} ORDER BY {order}) = 1"
    if not late:
        return f"SELECT {out} FROM ({one})"
    # A version that comes after a newer event is known never counts: it would hide the newer event.
    by_key = f"PARTITION BY {', '.join(keys)} " if keys else ""
    running = f"max(ts) OVER ({by_key}ORDER BY visible ROWS UNBOUNDED PRECEDING)"
    return f"SELECT {out} FROM ({one}) QUALIFY ts >= {running}"


def point_in_time_join(
    con: duckdb.DuckDBPyConnection,
    *,
    spine: str,
    decision_column: str,
    row_id_column: str,
    views: Sequence[JoinView],
    knowledge_time: bool = True,
    keep_row_id: bool = True,
) -> duckdb.DuckDBPyRelation:
    """Join every view to the spine, each row as of its own decision time.

    The joined values lie in temporary tables of `con` until it closes: use a session per join.

    Args:
        con: a session of `contrail.duck.connect`.
        spine: name of a table or view in `con`, as SQL.
        decision_column: the spine's decision time; the output has it as TIMESTAMPTZ.
        row_id_column: a unique, never null, orderable column of the spine: the output is in its order.
        views: what to join.
        knowledge_time: count a row only from ``greatest(event, created)`` on; False: from its event time on.
        keep_row_id: False leaves `row_id_column` out of the output.

    Returns:
        A relation: the spine's columns, then each view's features. As many rows as the spine, in order of the row id.

    Raises:
        ValueError: a column is missing, or a feature is named like another column.
        TypeError: a text key meets a number.
    """
    spine_types = column_types(con, spine)
    _check(spine, spine_types, [decision_column, row_id_column], views)
    decision = utc(q(decision_column))
    span = con.sql(f"SELECT min({decision}), max({decision}) FROM {spine}").fetchone() or (None, None)
    prefix = f"asof_{next(_join_numbers)}"
    keys = sorted({key for view in views for key in view.keys})
    con.execute(
        f"CREATE TEMP TABLE {prefix}_spine AS SELECT {q(row_id_column)} AS row_id, {decision} AS decision_at"
        # An ASOF join sorts a null last and would match it with the newest row.
        f"{''.join(f', {q(key)}' for key in keys)} FROM {spine} WHERE {q(decision_column)} IS NOT NULL"
    )
    joins: list[str] = []
    features: list[str] = []
    for number, view in enumerate(views):
        found = column_types(con, view.scan_sql)
        on = [*_key_conditions(con, spine, view, spine_types, found), "s.decision_at >= v.visible"]
        rows = _view_rows(view, span[0], span[1], knowledge_time=knowledge_time, naive=naive_columns(found))
        fresh = f" WHERE v.ts >= s.decision_at - {_microseconds(view.max_age)}" if view.max_age else ""
        table = f"{prefix}_{number}"
        values = "".join(f", v.f{i}" for i in range(len(view.features)))
        con.execute(
            f"CREATE TEMP TABLE {table} AS SELECT s.row_id{values} "
            f"FROM {prefix}_spine s ASOF JOIN ({rows}) v ON {' AND '.join(on)}{fresh}"
        )
        joins.append(f"LEFT JOIN {table} ON {table}.row_id = e.{q(row_id_column)}")
        features += [f"{table}.f{i} AS {q(output)}" for i, (_, output) in enumerate(view.features)]
    con.execute(f"DROP TABLE {prefix}_spine")
    own = [
        f"{utc('e.' + q(name))} AS {q(name)}" if name == decision_column else f"e.{q(name)}"
        for name in spine_types
        if keep_row_id or name != row_id_column
    ]
    return con.sql(
        f"SELECT {', '.join(own + features)} FROM {spine} e {' '.join(joins)} ORDER BY e.{q(row_id_column)}"
    )


def keys_and_times_sql(
    con: duckdb.DuckDBPyConnection,
    views: Sequence[JoinView],
    decision_column: str,
    start: datetime,
    end: datetime,
) -> str:
    """A spine where there is none: every (keys, event time) in [start, end] of the views that carry all keys.

    A row with a null key is nobody's and gives none.

    Raises:
        ValueError: no view carries all keys.
    """
    keys = sorted({key for view in views for key in view.keys})
    parts: list[str] = []
    for view in views:
        if set(view.keys) == set(keys):
            columns = [f"{q(view.keys[key])} AS {q(key)}" for key in keys]
            event = view.event_column
            naive = event in naive_columns(column_types(con, view.scan_sql))
            where = [f"{q(view.keys[key])} IS NOT NULL" for key in keys]
            where += [_compared(event, ">=", start, naive=naive), _compared(event, "<=", end, naive=naive)]
            parts.append(
                f"SELECT DISTINCT {', '.join([*columns, f'{utc(q(event))} AS {q(decision_column)}'])} "
                f"FROM {view.scan_sql} WHERE {' AND '.join(where)}"
            )
    if not parts:
        raise ValueError(
            f"without an entity frame one feature view has to carry all join keys {keys}, and none does: "
            "pass an entity frame"
        )
    return " UNION ".join(parts)
