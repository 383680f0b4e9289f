"""What the builders' SQL may not do: add up floating numbers, draw, or ask for the time."""

import re
from datetime import timedelta

import pytest
import sqlglot
from sqlglot import exp

from features import weather
from features.corrections import corrections
from features.facts import days_known_in
from features.tables import FEATURE_TABLES
from tests.support.clean_rows import departure, observation, session_with, utc

LO = utc("2013-03-08 07:00")
HI = LO + timedelta(days=2)


@pytest.fixture(scope="module")
def con():
    """A few rows, one of them corrected, so that every step of every builder has some."""
    rows = [
        departure("2013-03-08 15:00", n, delay=20, arrival_delay=30, tail_number="N1") for n in range(1, 4)
    ]
    again = departure("2013-03-08 15:00", 1, delay=2, arrival_delay=3, tail_number="N1", created_at=HI)
    return session_with(
        [*rows, again],
        [
            observation(f"2013-03-08 {h:02d}:00", precipitation_inches=0.1, pressure_millibars=1010.5)
            for h in range(9, 20)
        ],
    )


TABLES = ("carrier_origin_state", "flight_history", "aircraft_leg")  # all scopes are one text
BUILDERS = ("station_weather", *(f"{table}, {rows}" for table in TABLES for rows in ("then", "since")))


def sql_of(con, name):
    """The query of a table's rows as they were known then, or of those that a correction makes."""
    table, _, rows = name.partition(", ")
    if not rows:
        return weather.weather_sql(LO, HI, corrected=True) + "SELECT * FROM rows_out"
    versioned = FEATURE_TABLES[table].build.__self__
    days = days_known_in(LO - versioned.reach, HI)
    (group,) = corrections(con, days, versioned.reach)
    return (
        versioned.as_known_since(group, LO, HI)
        if rows == "since"
        else versioned.as_known_then(days, LO, HI, True)
    )


FORBIDDEN = ("avg(", "mean(", "random(", "hash(", "now(", "current_", "today(", "fsum(", "stddev", "variance")


def sum_types(con, sql):
    """The type of the argument of every sum in a query, asked of DuckDB itself where that sum stands."""
    types = set()

    def visit(select, inherited):
        ctes = [*inherited]
        if with_ := select.args.get("with_") or select.args.get("with"):
            for cte in with_.expressions:
                visit(cte.this, ctes)
                ctes.append(cte.copy())
        for branch in [select] if isinstance(select, exp.Select) else [select.left, select.right]:
            if branch is not select:
                visit(branch, ctes)
                continue
            for total in select.find_all(exp.Sum):
                if total.parent_select is not select:
                    continue
                source = exp.select(exp.func("typeof", total.this.copy()))
                source.set("from_", select.args.get("from_").copy())
                source.set("joins", [join.copy() for join in select.args.get("joins") or []])
                text = source.sql("duckdb")
                known = ", ".join(cte.sql("duckdb") for cte in ctes)
                types.update(
                    con.sql(f"{'WITH ' + known if known else ''} SELECT DISTINCT * FROM ({text})").fetchall()
                )
        for inner in select.find_all(exp.Subquery):
            if inner.parent_select is select:
                visit(inner.this, ctes)

    visit(sqlglot.parse_one(sql, read="duckdb"), [])
    return {name for (name,) in types}


@pytest.mark.parametrize("name", BUILDERS)
def test_sums_are_over_integers(con, name):
    sql = sql_of(con, name)
    text = re.sub(r"\s+", " ", sql.lower())
    assert not [word for word in FORBIDDEN if word in text]
    found = sum_types(con, sql)
    assert found <= {"INTEGER", "BIGINT", "HUGEINT"}
    assert bool(found) == (not name.startswith("aircraft_leg"))


def test_a_sum_over_doubles_is_seen(con):
    honest = "sum(round(o.precipitation_inches * 10000)::BIGINT)"
    sql = weather.weather_sql(LO, HI, corrected=True) + "SELECT * FROM rows_out"
    assert honest in sql
    assert "DOUBLE" in sum_types(con, sql.replace(honest, "sum(o.precipitation_inches)"))
