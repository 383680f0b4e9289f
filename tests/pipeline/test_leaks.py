"""Every leak that this data invites is planted, and seen by structure; what the project does passes the same checks."""

import random
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from contrail.windows import SplitError, check_time_ordered_split, utc_literal
from features import weather
from features.facts import days_known_in
from features.tables import FEATURE_TABLES
from tests.support import canaries, nyc_clean

# A Friday of storm; not on the hour, so that the hour's own observation is not known yet.
AT = datetime(2013, 3, 8, 20, 30, tzinfo=UTC)
FIRST_DECISION = AT - timedelta(hours=2)
FIRST_ROW = AT - timedelta(days=2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    con = nyc_clean.session()
    nyc_clean.load_facts(con, tmp_path_factory.mktemp("source"), date(2013, 3, 1), date(2013, 3, 10))
    nyc_clean.create_clean(con)
    return con


@pytest.fixture(scope="module")
def worlds(clean):
    return canaries.worlds_at(clean, AT)


def table_rows(build):
    """The rows a builder gives for a span that reaches beyond T, as far as they are known at T."""

    def values(con):
        rows = build(con, FIRST_ROW, AT + timedelta(hours=6)).to_arrow_table()
        con.register("built_rows", rows)
        return con.sql(f"SELECT * FROM built_rows WHERE known_at <= {utc_literal(AT)}").to_arrow_table()

    return values


def test_the_worlds_do_differ_after_t(worlds):
    later = f"SELECT count(*) FROM departures WHERE outcome_known_at > {utc_literal(AT)}"
    assert worlds.true.sql(later).fetchone()[0] > 1000
    assert worlds.truncated.sql(later).fetchone()[0] == 0
    same = "SELECT count(*) FROM departures d JOIN true_departures t USING (departure_id) WHERE d.is_disrupted = t.is_disrupted"
    known = f"{same} AND t.outcome_known_at > {utc_literal(AT)}"
    assert worlds.scrambled.sql(same).fetchone()[0] > 1000
    assert worlds.scrambled.sql(known).fetchone()[0] == 0


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_no_row_of_a_table_depends_on_what_follows(worlds, name):
    compared = canaries.assert_nothing_moves_at_or_before(worlds, table_rows(FEATURE_TABLES[name].build))
    assert compared >= 2  # the network's history has one row a night


def honest_vectors(con):
    return canaries.vectors(con, canaries.spine_sql(FIRST_DECISION, AT), FIRST_DECISION, AT)


def test_no_vector_depends_on_what_follows(worlds):
    assert canaries.assert_nothing_moves_at_or_before(worlds, honest_vectors) > 100


# A feature that someone might add, as SQL over the request `d` and the clean tables.
PLANTED = {
    "the flight's own departure delay": "SELECT departure_id, departure_delay_minutes FROM departures",
    "the mean of the day, own row included": """
        SELECT departure_id, avg(is_disrupted::INTEGER) OVER (PARTITION BY service_date, origin) FROM departures""",
    "shift(1).rolling(50) in schedule order": """
        SELECT departure_id, avg(is_disrupted::INTEGER) OVER (
          PARTITION BY origin ORDER BY scheduled_departure_at, departure_id ROWS BETWEEN 50 PRECEDING AND 1 PRECEDING)
        FROM departures""",
    "the observation of the departure's hour": """
        SELECT departure_id, temperature_f FROM departures d LEFT JOIN weather w
        ON w.origin = d.origin AND w.observed_hour_at = date_trunc('hour', d.scheduled_departure_at)""",
    "the observation labelled with the decision's hour": """
        SELECT departure_id, temperature_f FROM departures d LEFT JOIN weather w
        ON w.origin = d.origin
        AND w.observed_hour_at = date_trunc('hour', d.scheduled_departure_at - INTERVAL 2 HOUR)""",
    "how long the departure queue of this hour will be": """
        SELECT departure_id, count(*) FILTER (departed_known_at > scheduled_departure_at + INTERVAL 15 MINUTE)
          OVER (PARTITION BY origin, date_trunc('hour', scheduled_departure_at)) FROM departures""",
}


@pytest.mark.parametrize("leak", PLANTED)
def test_a_planted_feature_is_seen(worlds, leak):
    def values(con):
        requests = f"SELECT departure_id FROM ({canaries.spine_sql(FIRST_DECISION, AT)})"
        return con.sql(f"SELECT * FROM ({PLANTED[leak]}) WHERE departure_id IN ({requests})").to_arrow_table()

    with pytest.raises(canaries.Moved):
        canaries.assert_nothing_moves_at_or_before(worlds, values)


def planted(sql, honest, leaky):
    """The builder of a table with one expression of its SQL replaced."""

    def build(con, lo, hi):
        text = sql(lo, hi)
        assert honest in text, f"the builder no longer says {honest!r}; plant the leak anew"
        return con.sql(text.replace(honest, leaky))

    return build


def origin_state(lo, hi):
    table = FEATURE_TABLES["origin_state"].build.__self__
    rows = table.as_known_then(days_known_in(lo - table.reach, hi), lo, hi, False)
    return f"SELECT * FROM ({rows})"


def station_weather(lo, hi):
    return f"{weather.weather_sql(lo, hi, corrected=False)} SELECT * FROM rows_out"


LEAKY_BUILDERS = {
    # An event counts at the grid instant before it: up to 15 minutes too early.
    "floor instead of ceil": (origin_state, "+ 899999999)", "+ 0)"),
    "outcomes counted from the departure instead of from when known": (
        origin_state,
        "(epoch_us(outcome_known_at)",
        "(epoch_us(scheduled_departure_at)",
    ),
    "waiting derived from the departure that comes": (
        origin_state,
        "due_at < gone_at",
        "due_at < gone_at AND departure_delay_minutes > 60",
    ),
    "weather without the hour until it is known": (
        station_weather,
        "FROM weather",
        "FROM (SELECT * REPLACE (observed_hour_at AS known_at, observed_hour_at AS created_at) FROM weather)",
    ),
}


@pytest.mark.parametrize("builder", [origin_state, station_weather])
def test_the_same_builders_without_a_leak_pass(worlds, builder):
    assert (
        canaries.assert_nothing_moves_at_or_before(worlds, table_rows(planted(builder, "FROM", "FROM"))) > 0
    )


@pytest.mark.parametrize("leak", LEAKY_BUILDERS)
def test_a_leaky_builder_is_seen(worlds, leak):
    with pytest.raises(canaries.Moved):
        canaries.assert_nothing_moves_at_or_before(worlds, table_rows(planted(*LEAKY_BUILDERS[leak])))


# --- the tail: in the source it is missing only where a flight was cancelled -----------------------------------


def without_tail(spine):
    return f"SELECT * REPLACE (NULL::VARCHAR AS tail_number) FROM ({spine})"


def requests_without_recent_leg(con):
    """Requests with a known tail of which nothing was heard in the 48 h before the departure."""
    spine = canaries.spine_sql(AT - timedelta(days=1), AT)
    return f"""SELECT * FROM ({spine}) s WHERE tail_number IS NOT NULL AND NOT EXISTS (
        FROM departures d WHERE d.tail_number = s.tail_number AND d.departure_id <> s.departure_id
        AND d.scheduled_departure_at BETWEEN s.scheduled_departure_at - INTERVAL 48 HOUR AND s.scheduled_departure_at)"""


def assert_unknown_tail_is_no_leg(con, vectors_of):
    requests = requests_without_recent_leg(con)
    known, unknown = vectors_of(con, requests), vectors_of(con, without_tail(requests))
    assert known.num_rows > 20
    assert known.equals(unknown), "a missing tail can be told from a tail without a leg in 48 h"


def vectors_of(con, spine):
    return canaries.vectors(con, spine, AT - timedelta(days=1), AT)


def test_unknown_tail_and_tail_without_leg_give_the_same_vector(clean):
    assert_unknown_tail_is_no_leg(clean, vectors_of)


def test_a_tail_flag_is_seen(clean):
    def flagged(con, spine):
        flags = con.sql(
            f"SELECT tail_number IS NULL AS missing FROM ({spine}) ORDER BY departure_id"
        ).to_arrow_table()
        return vectors_of(con, spine).append_column("tail_is_missing", flags["missing"])

    with pytest.raises(AssertionError, match="can be told from"):
        assert_unknown_tail_is_no_leg(clean, flagged)


def test_vectors_do_use_the_tail(clean):
    spine = canaries.spine_sql(FIRST_DECISION, AT)
    known, unknown = vectors_of(clean, spine), vectors_of(clean, without_tail(spine))
    assert known["aircraft_stage"].null_count < known.num_rows
    assert unknown["aircraft_stage"].null_count == unknown.num_rows


# --- the split --------------------------------------------------------------------------------------------------


def decisions(clean):
    rows = clean.sql(
        "SELECT scheduled_departure_at - INTERVAL 2 HOUR AS t, outcome_known_at AS k FROM departures ORDER BY t"
    ).fetchall()
    return [(t, k) for t, k in rows if k is not None]


def test_a_random_split_is_seen(clean):
    rows = decisions(clean)
    random.Random(7).shuffle(rows)
    cut = int(len(rows) * 0.8)
    with pytest.raises(SplitError, match="never at random"):
        check_time_ordered_split({"train": [t for t, _ in rows[:cut]], "test": [t for t, _ in rows[cut:]]})


def test_a_split_by_time_passes_once_labels_are_known(clean):
    rows = decisions(clean)
    cut = datetime(2013, 3, 8, tzinfo=UTC)
    train, test = [row for row in rows if row[0] < cut], [row for row in rows if row[0] >= cut]
    parts = {"train": [t for t, _ in train], "test": [t for t, _ in test]}
    check_time_ordered_split(parts)
    with pytest.raises(SplitError, match="became known"):
        check_time_ordered_split(parts, {"train": [k for _, k in train]})
    known = [row for row in train if row[1] < cut]
    check_time_ordered_split(
        {"train": [t for t, _ in known], "test": parts["test"]}, {"train": [k for _, k in known]}
    )


def test_the_comparison_sees_a_single_bit(worlds):
    def values(con):
        last_bit = 0.0 if con is worlds.true else 5e-324
        return pa.table({"departure_id": ["x"], "value": [last_bit]})

    with pytest.raises(canaries.Moved):
        canaries.assert_nothing_moves_at_or_before(worlds, values)
