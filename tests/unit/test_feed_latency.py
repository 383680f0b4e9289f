"""Feed latency: minutes from known to delivered, per feed and month."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import duck, feed_latency, landing
from contrail.lake import Commit, Lake

FEED = "raw/readings"
SCHEMA = pa.schema(
    [
        pa.field("known_at", pa.timestamp("us", tz="UTC")),
        pa.field("is_retracted", pa.bool_()),
        pa.field("_source_file", pa.string()),
        pa.field("_source_sha256", pa.string()),
    ]
)


class World:
    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(folder / "lake")
        self.lake.create(FEED, SCHEMA)

    def deliver(
        self, at: datetime, minutes_old: list[float], *, retracted: bool = False, text: str = ""
    ) -> landing.Delivery:
        """A file delivered at an instant, with rows known so many minutes before."""
        day = at.date().isoformat()
        landed = landing.write_delivery(
            self.root, "readings", day, f"x\n{text or day}\n".encode(), rows=len(minutes_old), delivered_at=at,
            covers_from=None, covers_to=None, source="gauges",
        )  # fmt: skip
        rows = [
            {
                "known_at": at - timedelta(minutes=minutes),
                "is_retracted": retracted,
                "_source_file": f"readings/{landed.path.name}",
                "_source_sha256": landed.sha256,
            }
            for minutes in minutes_old
        ]
        self.lake.append(
            FEED, pa.Table.from_pylist(rows, SCHEMA), Commit(FEED, "run", (f"sha256:{landed.sha256}",))
        )
        return landed

    def measure(self, *feeds: str) -> tuple[list[dict[str, object]], tuple[str, ...]]:
        with duck.connect(threads=1) as con:
            table, inputs = feed_latency.measure(self.lake, con, self.root, feeds or (FEED,))
        assert table.schema == feed_latency.SCHEMA
        return table.to_pylist(), inputs


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    return World(tmp_path)


def test_minutes_from_known_to_delivered_by_month_of_knowing(world):
    world.deliver(datetime(2024, 3, 5, 12, tzinfo=UTC), [10, 20, 60])
    world.deliver(datetime(2024, 4, 1, 0, 30, tzinfo=UTC), [60])  # known in March
    world.deliver(datetime(2024, 4, 2, 12, tzinfo=UTC), [1.5])
    rows, inputs = world.measure()
    assert rows == [
        {
            "feed": FEED,
            "month": date(2024, 3, 1),
            "rows": 4,
            "latency_median_minutes": 40.0,
            "latency_p95_minutes": 60.0,
            "latency_max_minutes": 60.0,
        },
        {
            "feed": FEED,
            "month": date(2024, 4, 1),
            "rows": 1,
            "latency_median_minutes": 1.5,
            "latency_p95_minutes": 1.5,
            "latency_max_minutes": 1.5,
        },
    ]
    assert inputs == (f"{FEED}@v3",)


def test_retractions_are_no_deliveries_of_a_fact(world):
    world.deliver(datetime(2024, 3, 5, 12, tzinfo=UTC), [10])
    world.deliver(datetime(2024, 3, 6, 12, tzinfo=UTC), [5000], retracted=True)
    (row,), _ = world.measure()
    assert (row["rows"], row["latency_max_minutes"]) == (1, 10.0)


def test_the_same_content_delivered_twice_does_not_count_its_rows_twice(world):
    first = world.deliver(datetime(2024, 3, 5, 12, tzinfo=UTC), [10], text="same")
    first.path.write_bytes(b"damaged")  # so that it is delivered once more, under another name
    again = landing.write_delivery(
        world.root, "readings", "2024-03-05", b"x\nsame\n", rows=1, delivered_at=first.delivered_at + timedelta(hours=9),
        covers_from=None, covers_to=None, source="gauges",
    )  # fmt: skip
    assert (again.sha256, again.path.name) == (first.sha256, "2024-03-05.1.csv.gz")
    (row,), _ = world.measure()
    assert (row["rows"], row["latency_max_minutes"]) == (1, 10.0)


def test_a_feed_that_does_not_exist_yet_is_left_out(world):
    world.deliver(datetime(2024, 3, 5, 12, tzinfo=UTC), [10])
    rows, inputs = world.measure("raw/none", FEED)
    assert ([row["feed"] for row in rows], inputs) == ([FEED], (f"{FEED}@v1",))
    assert world.measure("raw/none") == ([], ())
