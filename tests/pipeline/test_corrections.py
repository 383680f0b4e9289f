"""A superseding file through the whole graph: seen after its delivery and not before, offline and online alike."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contrail import duck, incremental, landing
from contrail.asof_sources import read_versions
from contrail.contracts import load_contracts
from contrail.lake import Lake
from contrail.leakage import FEATURES_KNOWN_AT
from contrail.settings import Settings
from feature_repo.use_cases import LATE_FLIGHT_2H as USE_CASE
from resources.feature_store import FeatureStoreResource
from tests.support import bad_files
from tests.support.three_weeks import copy
from tests.support.whole_graph import Home, all_succeeded

pytestmark = pytest.mark.slow

DAY = "2013-01-21"
DELIVERY = datetime(2013, 1, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TRAINING_SET = f"model/{USE_CASE.name}/training_set"


@dataclass(frozen=True)
class Corrected:
    """The home after the correction, and what it answered before.

    Attributes:
        versions: of every table, before.
        asked: decisions, half of them before the correction's delivery, half after; and `answers` to them, before.
        gone: the arrivals that the correction took back.
    """

    home: Home
    versions: dict[str, int]
    asked: pa.Table
    answers: pa.Table
    gone: list[dict[str, str]]


def taken_back(home: Home) -> list[dict[str, str]]:
    """Deliver the day's events again without every second arrival."""
    root = home.settings.landing_root
    first = bad_files.only(root, "flight_events", DAY)
    header, *rows = bad_files.rows_of(first)
    arrivals = [row for row in rows if row[header.index("event")] == "arrived"][::2]
    kept = [row for row in rows if row not in arrivals]
    bad_files.deliver_rows(root, first, [header, *kept], DELIVERY, supersedes=first.sha256)
    return [dict(zip(header, row, strict=True)) for row in arrivals]


def decisions(settings: Settings, asked_at: datetime) -> pa.Table:
    """The departures of the last landed day, as if all were decided at one instant."""
    lake = Lake(settings.lake_root)
    with duck.connect() as con:
        incremental.pin(lake, con, {"departures": "clean/departures"})
        return con.sql(
            f"SELECT * REPLACE (TIMESTAMPTZ '{asked_at.isoformat()}' AS decision_at) FROM ({USE_CASE.spine_sql}) "
            f"WHERE service_date = DATE '{DAY}' ORDER BY departure_id LIMIT 400"
        ).to_arrow_table()


def answers_to(settings: Settings, asked: pa.Table) -> pa.Table:
    made, _ = FeatureStoreResource(home=str(settings.home)).historical(asked, USE_CASE.feature_service)
    return made.select(list(USE_CASE.features))


@pytest.fixture(scope="module")
def corrected(three_weeks: Settings, tmp_path_factory: pytest.TempPathFactory) -> Corrected:
    folder = tmp_path_factory.mktemp("corrections") / "home"
    home = Home(folder)
    copy(three_weeks, folder)
    FeatureStoreResource(
        home=str(folder)
    ).apply()  # the registry that was copied names the other home's tables
    versions = {name: home.lake.version(name) for name in home.lake.tables()}
    # The instants after the delivery are beyond what is built: there the newest rows answer.
    asked = pa.concat_tables([decisions(home.settings, DELIVERY + n * HOUR) for n in (-7, -1, 0, 1)])
    answers = answers_to(home.settings, asked)
    gone = taken_back(home)
    all_succeeded(home.run())
    return Corrected(home, versions, asked, answers, gone)


def halves(table: pa.Table) -> tuple[list[Any], list[Any]]:
    rows = table.to_pylist()
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def test_before_its_delivery_nothing_of_it_is_seen_and_after_it_is(corrected):
    now = answers_to(corrected.home.settings, corrected.asked)
    (then_before, then_after), (now_before, now_after) = halves(corrected.answers), halves(now)
    assert now_before == then_before
    changed = [
        {name for name in before if before[name] != after[name]}
        for before, after in zip(then_after, now_after, strict=True)
    ]
    names = set().union(*changed)
    assert len(corrected.gone) > 100
    assert all(changed), "every departure is asked about the network, and its delays have changed"
    assert {"network_arrival_delay_mean_24h", "origin_arrival_delay_mean_180min"} <= names
    assert any(name.startswith("dest_") for name in names)
    assert {"aircraft_arrival_delay_minutes", "aircraft_stage"} <= names


def test_the_correction_is_online_and_equal_to_offline(corrected):
    """The new row has the event time of the one that it replaces, or an older one."""
    settings = corrected.home.settings
    last = decisions(settings, DELIVERY)
    offline = answers_to(settings, last)
    requests = last.to_pylist()
    online = FeatureStoreResource(home=str(settings.home)).online(
        USE_CASE.feature_service, requests, now=DELIVERY
    )
    assert [dict(vector.features) for vector in online] == offline.to_pylist()


def test_an_old_training_set_is_made_again_from_the_versions_it_names(corrected):
    home = corrected.home
    version = corrected.versions[TRAINING_SET]
    record = next(r for r in home.lake.commits(TRAINING_SET) if r.version == version)
    pins = {name: int(v) for name, _, v in (i.rpartition("@v") for i in record.inputs)}
    assert any(home.lake.version(name) > v for name, v in pins.items() if name.startswith("feature/"))
    stored = table_at(home, TRAINING_SET, version)
    with duck.connect() as con:
        con.execute(
            f"CREATE VIEW departures AS FROM {home.lake.scan('clean/departures', pins['clean/departures'])}"
        )
        spine = con.sql(
            f"SELECT * FROM ({USE_CASE.spine_sql}) WHERE departure_id IN (SELECT unnest($1)) "
            f"ORDER BY {USE_CASE.decision_column}, {USE_CASE.entity_key}",
            params=[stored["departure_id"].to_pylist()],
        ).to_arrow_table()
    paths = {home.lake.uri(name): v for name, v in pins.items() if name.startswith("feature/")}
    store = FeatureStoreResource(home=str(home.settings.home))
    with read_versions(paths):
        made, versions = store.historical(spine, USE_CASE.feature_service)
    assert versions == {name: v for name, v in pins.items() if name.startswith("feature/")}
    vectors = stored.drop_columns([FEATURES_KNOWN_AT])
    assert made.select(vectors.column_names).to_pylist() == vectors.to_pylist()
    without, _ = store.historical(spine, USE_CASE.feature_service)
    assert without.num_rows == made.num_rows


def table_at(home: Home, name: str, version: int) -> pa.Table:
    with duck.connect() as con:
        return con.execute(
            f"SELECT * EXCLUDE (_written_at, _run_id) FROM {home.lake.scan(name, version)} "
            f"ORDER BY {USE_CASE.decision_column}, {USE_CASE.entity_key}"
        ).to_arrow_table()


def test_only_what_it_reaches_is_built_again(corrected):
    for name in ("network_state", "flight_history", "aircraft_leg"):
        record = corrected.home.lake.commits(f"feature/{name}")[-1]
        lo, _, hi = record.extra["revised"].partition("..")
        assert record.extra["revised_created_from"] == DELIVERY.isoformat()
        assert datetime.fromisoformat(lo) >= datetime(2013, 1, 18, tzinfo=UTC)
        assert datetime.fromisoformat(hi) <= incremental.built_until(corrected.home.lake, f"feature/{name}")
    assert "revised" not in corrected.home.lake.commits("feature/station_weather")[-1].extra


def test_every_feed_row_is_kept_in_versions(corrected):
    """The correction takes rows back; it deletes none."""
    assert set(load_contracts(corrected.home.settings.repo_root / "contracts")) >= {"flight_events"}
    first, second = landing.deliveries(corrected.home.settings.landing_root, "flight_events", {DAY})
    kept = corrected.home.rows(
        f"SELECT created_at = known_at AS is_first, is_retracted, count(*) AS n FROM {{raw/flight_events}} "
        f"WHERE feed_date = DATE '{DAY}' GROUP BY ALL ORDER BY ALL"
    )
    assert {(row["is_first"], row["is_retracted"]): row["n"] for row in kept} == {
        (True, False): first.rows,
        (False, False): second.rows,
        (False, True): len(corrected.gone),
    }
