"""Great Expectations itself on DuckDB: the yardstick of the compiled rules, and what runs those that are not compiled.

GX has no DuckDB engine, and its SQLAlchemy engine gives the connection back before it fetches, which on DuckDB loses
the result (great_expectations #10738, #11579). The engine here keeps one connection, shares the caller's session and
gives regular expressions and LIKE their DuckDB functions.

Importing this module imports Great Expectations, which takes seconds: nothing imports it at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast
from uuid import uuid4

import duckdb
import great_expectations as gx  # noqa: TID253
import sqlalchemy as sa
from duckdb_engine import ConnectionWrapper
from great_expectations.datasource.fluent.sql_datasource import SQLDatasource  # noqa: TID253
from great_expectations.execution_engine.sqlalchemy_execution_engine import (  # noqa: TID253
    SqlAlchemyExecutionEngine,
)
from great_expectations.expectations.expectation_configuration import (  # noqa: TID253
    ExpectationConfiguration,
)
from great_expectations.expectations.metrics.map_metric_provider.column_condition_partial import (  # noqa: TID253
    column_condition_partial,
)
from great_expectations.expectations.metrics.map_metric_provider.column_map_metric_provider import (  # noqa: TID253
    ColumnMapMetricProvider,
)

from contrail.contracts import Contract, Rule
from contrail.duck import quote_identifier as quoted
from contrail.expectation_sql import literal
from contrail.expectations import Outcome

_SHARED = "duckdb:///shared/"
_SESSIONS: dict[str, duckdb.DuckDBPyConnection] = {}
# GX names 20 rows of a rule and no more unless told otherwise.
_ALL_ROWS = 10**9


class GxError(RuntimeError):
    """Great Expectations could not evaluate a rule."""


class _BorrowedSession(ConnectionWrapper):
    """The caller's session: its transactions and its end are the caller's, so SQLAlchemy must not touch them.

    Otherwise a rollback on giving the connection back would undo temporary tables that the caller made meanwhile.
    """

    def left_to_the_caller(self) -> None:
        """Nothing."""

    begin = commit = rollback = close = left_to_the_caller


class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):
    """GX's SQLAlchemy engine on one DuckDB session that stays open."""

    def _setup_engine(
        self, kwargs: Any, connection_string: Any = None, credentials: Any = None, url: Any = None
    ) -> None:
        session = _SESSIONS[str(connection_string).removeprefix(_SHARED)]
        self.engine = sa.create_engine(
            "duckdb://", creator=lambda: _BorrowedSession(session), poolclass=sa.pool.StaticPool, **kwargs
        )

    @contextmanager
    def get_connection(self) -> Generator[Any]:
        if not self._connection:
            self._connection = self.engine.connect()
        yield self._connection

    def close(self) -> None:
        """The session is the caller's: it stays open."""


class DuckDBDatasource(SQLDatasource):
    """Data source of type ``duckdb``, made by ``context.data_sources.add_duckdb``."""

    type: Literal["duckdb"] = "duckdb"  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def execution_engine_type(self) -> type[SqlAlchemyExecutionEngine]:
        return DuckDBExecutionEngine

    def get_engine(self) -> Any:
        return cast(Any, self.get_execution_engine()).engine


def _on_duckdb(metric: str, arguments: tuple[str, ...], fine: Callable[..., Any]) -> None:
    """Register how DuckDB decides a condition: `fine(column, **arguments)` is true where a value is as expected."""

    def condition(cls: Any, column: Any, **given: Any) -> Any:
        return fine(column, **{name: given[name] for name in arguments if given.get(name) is not None})

    members = {
        "condition_metric_name": metric,
        "condition_value_keys": arguments,
        "_sqlalchemy": column_condition_partial(engine=DuckDBExecutionEngine)(condition),
    }
    type("Duck_" + metric.replace(".", "_"), (ColumnMapMetricProvider,), members)


def _regex(column: Any, pattern: str, escape: str | None) -> Any:
    # DuckDB's own operator ~ matches the whole text, GX means a part of it.
    return sa.func.regexp_matches(column, sa.literal(pattern))


def _like(column: Any, pattern: str, escape: str | None) -> Any:
    return column.like(sa.literal(pattern), escape=escape)


def _register_conditions() -> None:
    # The arguments are those that GX itself registers: it would warn of any other.
    for kind, one, more in (("regex", _regex, ()), ("like_pattern", _like, ("escape",))):

        def matches(column: Any, _one: Any = one, _kind: str = kind, **given: Any) -> Any:
            return _one(column, given[_kind], given.get("escape"))

        def matches_list(column: Any, _one: Any = one, _kind: str = kind, **given: Any) -> Any:
            joined = sa.and_ if given.get("match_on") == "all" else sa.or_
            return joined(*[_one(column, pattern, given.get("escape")) for pattern in given[f"{_kind}_list"]])

        def not_matches(column: Any, _matches: Any = matches, **given: Any) -> Any:
            return sa.not_(_matches(column, **given))

        def not_matches_list(column: Any, _matches: Any = matches_list, **given: Any) -> Any:
            return sa.not_(_matches(column, **given))

        _on_duckdb(f"column_values.match_{kind}", (kind, *more), matches)
        _on_duckdb(f"column_values.not_match_{kind}", (kind, *more), not_matches)
        _on_duckdb(f"column_values.match_{kind}_list", (f"{kind}_list", "match_on", *more), matches_list)
        _on_duckdb(f"column_values.not_match_{kind}_list", (f"{kind}_list", *more), not_matches_list)


_register_conditions()


def build_suite(contract: Contract) -> Any:
    """The contract's rules as a Great Expectations suite, for its documentation, its tools and its engines."""
    return gx.ExpectationSuite(
        name=contract.table,
        expectations=[expectation_of(rule) for rule in contract.rules],
        meta={"contract": contract.table, "version": contract.version},
    )


def expectation_of(rule: Rule) -> Any:
    """One rule as a Great Expectations expectation.

    Raises:
        GxError: GX knows no such expectation, or not with these arguments.
    """
    meta = {"rule": rule.name, "rule_class": rule.rule_class}
    try:
        return ExpectationConfiguration(
            type=rule.expectation, kwargs=dict(rule.kwargs), meta=meta
        ).to_domain_obj()
    except Exception as error:  # GX raises many kinds, its validation library's among them
        raise GxError(f"rule {rule.name}: Great Expectations refuses {rule.expectation}: {error}") from error


def validate(con: duckdb.DuckDBPyConnection, relation: str, rules: Sequence[Rule]) -> list[Outcome]:
    """Let GX evaluate rules on a table or view of this session, in the rules' order.

    Raises:
        GxError: GX could not evaluate a rule.
    """
    suite = gx.ExpectationSuite(name=relation, expectations=[expectation_of(rule) for rule in rules])
    with _batch(con, relation) as batch:  # all at once: GX puts what it can into one query
        results = batch.validate(suite, result_format="SUMMARY").to_json_dict()["results"]
    by_rule = {result["expectation_config"]["meta"]["rule"]: result for result in results}
    return [_outcome(rule, _checked(rule, by_rule[rule.name])) for rule in rules]


def unexpected_ids(con: duckdb.DuckDBPyConnection, relation: str, rule: Rule, id_column: str) -> list[int]:
    """The values of `id_column` in the rows that GX finds unexpected; empty where the rule does not name rows."""
    wanted = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": [id_column],
        "partial_unexpected_count": _ALL_ROWS,
    }
    with _batch(con, relation) as batch:
        evaluated = batch.validate(expectation_of(rule), result_format=wanted).to_json_dict()
    result = _checked(rule, evaluated)["result"]
    named = result.get("unexpected_index_list") or result.get("details", {}).get("unexpected_rows") or []
    return sorted({int(row[id_column]) for row in named})


@contextmanager
def group_view(
    con: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[str], group_by: str | None, group: Any
) -> Generator[str]:
    """A view of one group of a relation, for the time of the block."""
    name = f"_gx_{uuid4().hex}"
    where = f"WHERE {quoted(group_by)} = {literal(group)}" if group_by else ""
    selected = ", ".join(quoted(column) for column in columns)
    con.execute(f"CREATE TEMP VIEW {name} AS SELECT {selected} FROM {quoted(relation)} {where}")
    try:
        yield name
    finally:
        con.execute(f"DROP VIEW {name}")


@cache
def _context() -> Any:
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return context


@contextmanager
def _batch(con: duckdb.DuckDBPyConnection, relation: str) -> Generator[Any]:
    key = uuid4().hex
    _SESSIONS[key] = con
    sources = _context().data_sources
    try:
        asset = sources.add_duckdb(key, connection_string=_SHARED + key).add_table_asset(
            relation, table_name=relation
        )
        yield asset.add_batch_definition_whole_table("all").get_batch()
    finally:
        sources.delete(key)
        del _SESSIONS[key]


def _checked(rule: Rule, result: dict[str, Any]) -> dict[str, Any]:
    raised = _raised(result.get("exception_info") or {})
    if raised:
        raise GxError(f"rule {rule.name}: Great Expectations could not evaluate {rule.expectation}: {raised}")
    return result


def _raised(info: dict[str, Any]) -> str:
    """The message of an exception that GX caught; it keeps one per expectation, or one per metric."""
    entries = [info, *[entry for entry in info.values() if isinstance(entry, dict)]]
    return "; ".join(
        str(entry.get("exception_message")) for entry in entries if entry.get("raised_exception")
    )


def _outcome(rule: Rule, result: dict[str, Any]) -> Outcome:
    found = result["result"]
    observed = found.get("observed_value")
    if rule.expectation == "unexpected_rows_expectation":
        return Outcome(0, 0, int(observed), bool(result["success"]))
    return Outcome(
        int(found.get("element_count") or 0),
        int(found.get("missing_count") or 0),
        int(found.get("unexpected_count") or 0),  # GX says None of a table without rows
        bool(result["success"]),
        None if observed is None else str(observed),
    )
