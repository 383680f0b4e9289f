"""A real day as its files made it, and what is online of it after it was pushed instead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from contrail import duck
from contrail.lake import RUN_ID, WRITTEN_AT, Lake
from contrail.online_fetch import Group, fetch_of
from contrail.online_layout import encode_key
from contrail.online_views import online_view
from contrail.settings import Settings
from contrail.windows import utc_literal
from features.declarations import DEPARTURES
from features.live import FEEDS
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource

CUT = datetime(2013, 1, 21, 16, tzinfo=UTC)  # eleven in the morning in New York
END = datetime(2013, 1, 22, 7, tzinfo=UTC)  # what landed is complete up to here
TABLES = [table for table in FEATURE_TABLES.values() if DEPARTURES in table.sources]

# Feed, and the report.
Report = tuple[str, dict[str, Any]]


class Whole:
    """The day as the daily files made it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake(settings.lake_root)
        self.con = duck.connect()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return self.con.execute(sql).to_arrow_table().to_pylist()

    def scan(self, table: str) -> str:
        return self.lake.scan(table)

    def reports(self, since: datetime, until: datetime) -> list[Report]:
        """What became known in [since, until), in order."""
        found: list[Report] = []
        for feed in FEEDS:
            rows = self.rows(
                f"SELECT * EXCLUDE (feed_date, created_at, is_retracted, {WRITTEN_AT}, {RUN_ID}, _source_file, "
                f"_source_sha256, _source_row, _raw_id) FROM {self.scan(f'raw/{feed}')} "
                f"WHERE known_at >= {utc_literal(since)} AND known_at < {utc_literal(until)}"
            )
            found += [(feed, row) for row in rows]
        return sorted(found, key=lambda one: (one[1]["known_at"], str(one)))

    def newest(self, table: str, at: datetime) -> list[dict[str, Any]]:
        """The row of each entity that answers at `at`, of those that were online at the cut or are newer."""
        declared = FEATURE_TABLES[table]
        return self.rows(
            f"SELECT * FROM {self.scan(f'feature/{table}')} WHERE known_at <= {utc_literal(at)} "
            f"AND known_at > {utc_literal(CUT - declared.max_age)} QUALIFY row_number() OVER "
            f"(PARTITION BY {', '.join(declared.keys)} ORDER BY known_at DESC, created_at DESC) = 1"
        )


def leg_of(whole: Whole) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A departure and an arrival of one flight after the cut, and its aircraft: known before the cut, and for the last
    time on that day."""
    found = whole.rows(
        f"SELECT departure_id, tail_number FROM {whole.scan(DEPARTURES)} WHERE departed_known_at >= {utc_literal(CUT)} "
        f"AND arrived_known_at < {utc_literal(END)} AND tail_known_at < {utc_literal(CUT)} QUALIFY count(*) OVER "
        "(PARTITION BY tail_number) = 1 ORDER BY departure_id LIMIT 1"
    )[0]
    day, carrier, number, origin = found["departure_id"].split("-")
    mine = {
        row["event"]: row
        for feed, row in whole.reports(CUT, END)
        if feed == "flight_events"
        and (row["carrier"], row["flight_number"], row["origin"]) == (carrier, int(number), origin)
        and f"{row['service_date']:%Y%m%d}" == day
    }
    return mine["departed"], mine["arrived"], found["tail_number"]


def journal(settings: Settings, feed: str = "flight_events") -> list[dict[str, Any]]:
    with duck.connect() as con:
        return (
            con.execute(f"FROM {Lake(settings.lake_root).scan(f'push/{feed}')}").to_arrow_table().to_pylist()
        )


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


class Online:
    """What stands online in a home."""

    def __init__(self, settings: Settings) -> None:
        store = FeatureStoreResource(home=str(settings.home)).store()
        self._config = store.config
        self._views = {
            table.name: online_view(store.config, store.get_feature_view(table.name)) for table in TABLES
        }

    def differences(self, whole: Whole, at: datetime) -> list[str]:
        """Per view and entity what is not as the finished tables say for `at`, bit by bit; with their known-at times."""
        found: list[str] = []
        for name, view in self._views.items():
            expected = whole.newest(name, at)
            fetch = fetch_of(self._config, [Group([view])])
            ((stored,),) = fetch.fetch([[encode_key(row, view.keys) for row in expected]])
            fetch.close()
            for row, event_us, values in zip(expected, stored.event_us, stored.values, strict=True):
                wanted = [_utc(row[feature]) for feature in view.features]
                known = int(row["known_at"].timestamp() * 1_000_000)
                if repr(values) != repr(wanted) or event_us != known:
                    found.append(
                        f"{name} {[row[key] for key in view.keys]}: {event_us} {values}, not {known} {wanted}"
                    )
        return found
