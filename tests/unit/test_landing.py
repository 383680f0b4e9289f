"""The landing zone: deterministic files, manifests written last, nothing ever overwritten."""

import gzip
import hashlib
import json
import time
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from contrail import landing
from contrail.landing import Delivery, LandingError

SEVEN = datetime(2020, 5, 2, 7, tzinfo=UTC)
CSV = b"key,value\na,1\nb,2\n"


def deliver(root: Path, csv: bytes = CSV, partition: str = "2020-05-01", **changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "rows": csv.count(b"\n") - 1,
        "delivered_at": SEVEN,
        "covers_from": SEVEN - timedelta(days=1),
        "covers_to": SEVEN,
        "source": "a test",
    }
    return landing.write_delivery(root, "readings", partition, csv, **(fields | changes))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "readings").iterdir())


def test_a_delivery_is_a_gzip_file_and_a_manifest_that_describes_it(tmp_path: Path) -> None:
    delivery = deliver(tmp_path)
    assert names(tmp_path) == ["2020-05-01.csv.gz", "2020-05-01.manifest.json"]
    data = delivery.path.read_bytes()
    assert gzip.decompress(data) == CSV
    assert json.loads(delivery.manifest_path.read_bytes()) == {
        "table": "readings",
        "partition": "2020-05-01",
        "file": "2020-05-01.csv.gz",
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": 2,
        "bytes": len(data),
        "delivered_at": "2020-05-02T07:00:00Z",
        "covers_from": "2020-05-01T07:00:00Z",
        "covers_to": "2020-05-02T07:00:00Z",
        "supersedes": None,
        "source": "a test",
    }
    assert landing.deliveries(tmp_path, "readings") == [delivery]
    assert landing.content_sha256(CSV) == delivery.sha256


def test_the_same_content_makes_the_same_bytes_and_is_a_no_op(tmp_path: Path) -> None:
    first = deliver(tmp_path / "one")
    assert deliver(tmp_path / "two").path.read_bytes() == first.path.read_bytes()
    written = first.manifest_path.stat().st_mtime_ns
    again = deliver(tmp_path / "one", source="another sender", delivered_at=SEVEN + timedelta(days=3))
    assert again == first
    assert first.manifest_path.stat().st_mtime_ns == written
    assert len(names(tmp_path / "one")) == 2


def test_other_content_gets_the_next_number_and_overwrites_nothing(tmp_path: Path) -> None:
    first = deliver(tmp_path)
    second = deliver(tmp_path, b"key,value\na,9\n", delivered_at=SEVEN + timedelta(hours=1))
    third = deliver(
        tmp_path, b"key,value\na,8\n", delivered_at=SEVEN + timedelta(hours=2), supersedes=first.sha256
    )
    assert [d.path.name for d in (first, second, third)] == [
        "2020-05-01.csv.gz",
        "2020-05-01.1.csv.gz",
        "2020-05-01.2.csv.gz",
    ]
    assert gzip.decompress(first.path.read_bytes()) == CSV
    assert landing.deliveries(tmp_path, "readings") == [first, second, third]
    assert landing.deliveries(tmp_path, "readings")[2].supersedes == first.sha256


def test_a_correction_back_to_earlier_content_is_a_delivery_of_its_own(tmp_path: Path) -> None:
    first = deliver(tmp_path)
    second = deliver(
        tmp_path, b"key,value\n", supersedes=first.sha256, delivered_at=SEVEN + timedelta(hours=1)
    )
    back = deliver(tmp_path, supersedes=second.sha256, delivered_at=SEVEN + timedelta(hours=2))
    assert back.path.name == "2020-05-01.2.csv.gz"
    assert deliver(tmp_path, supersedes=second.sha256) == back
    assert deliver(tmp_path) == first


def test_a_file_that_was_damaged_is_delivered_again_beside_it(tmp_path: Path) -> None:
    first = deliver(tmp_path)
    first.path.write_bytes(first.path.read_bytes()[:-5])
    second = deliver(tmp_path)
    assert second.path.name == "2020-05-01.1.csv.gz"
    assert gzip.decompress(second.path.read_bytes()) == CSV


def test_a_kill_before_the_manifest_is_made_good_by_the_same_call(tmp_path: Path) -> None:
    first = deliver(tmp_path)
    first.manifest_path.unlink()
    assert landing.deliveries(tmp_path, "readings") == []
    assert deliver(tmp_path) == first
    first.manifest_path.unlink()
    first.path.write_bytes(b"someone's unfinished upload")
    assert deliver(tmp_path).path.name == "2020-05-01.1.csv.gz"
    assert first.path.read_bytes() == b"someone's unfinished upload"


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> Path:
        if target.name.endswith(".manifest.json"):
            raise KeyboardInterrupt
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        deliver(tmp_path)
    monkeypatch.undo()
    assert landing.deliveries(tmp_path, "readings") == []
    assert deliver(tmp_path).path.name == "2020-05-01.csv.gz"


def test_deliveries_are_ordered_by_partition_then_time_then_name(tmp_path: Path) -> None:
    late = deliver(tmp_path, b"k\n1\n", "2020-05-01", delivered_at=SEVEN + timedelta(days=9))
    early = deliver(tmp_path, b"k\n2\n", "2020-05-01", delivered_at=SEVEN)
    other = deliver(tmp_path, b"k\n3\n", "2020-04-30", delivered_at=SEVEN + timedelta(days=20))
    assert landing.deliveries(tmp_path, "readings") == [other, early, late]
    assert landing.deliveries(tmp_path, "readings", {"2020-04-30", "2020-01-01"}) == [other]
    assert landing.deliveries(tmp_path, "readings", []) == []
    assert landing.deliveries(tmp_path, "nothing") == []


def test_a_partition_may_come_in_several_files(tmp_path: Path) -> None:
    eight = deliver(tmp_path, b"k\n", stem="2020-05-01T08")
    nine = deliver(tmp_path, b"k\n", stem="2020-05-01T09", delivered_at=SEVEN + timedelta(hours=1))
    assert landing.deliveries(tmp_path, "readings", {"2020-05-01"}) == [eight, nine]
    with pytest.raises(LandingError, match="does not begin with its partition"):
        deliver(tmp_path, stem="2020-05-02T08")


def test_instants_are_kept_in_utc_and_need_a_zone(tmp_path: Path) -> None:
    there = SEVEN.astimezone(timezone(timedelta(hours=-5)))
    delivery = deliver(tmp_path, delivered_at=there, covers_from=None, covers_to=None)
    assert (delivery.delivered_at, delivery.delivered_at.tzinfo, delivery.covers_to) == (SEVEN, UTC, None)
    assert landing.deliveries(tmp_path, "readings") == [delivery]
    with pytest.raises(LandingError, match="delivered_at .* has no time zone"):
        deliver(tmp_path, b"k\n1\n", delivered_at=SEVEN.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "not readable as JSON"),
        ([], "holds list, not an object"),
        ({"sha256": ...}, "field 'sha256' is missing"),
        ({"rows": "2"}, "'rows' is '2', not a count"),
        ({"bytes": -1}, "'bytes' is -1, not a count"),
        ({"rows": True}, "'rows' is True, not a count"),
        ({"source": 3}, "'source' is 3, not a text"),
        ({"delivered_at": "yesterday"}, "'delivered_at' is 'yesterday', not an instant"),
        ({"delivered_at": "2020-05-02T07:00:00"}, "has no time zone"),
        ({"table": "others"}, "of table 'others' but lies in 'readings'"),
        ({"file": "2020-05-09.csv.gz"}, "rename it to match"),
        ({"partition": "2020-06-01"}, "rename it to match"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path: Path, change: Any, message: str) -> None:
    path = deliver(tmp_path).manifest_path
    fields = json.loads(path.read_bytes())
    if isinstance(change, dict):
        fields = {key: value for key, value in (fields | change).items() if value is not ...}
    path.write_text("{" if change is None else json.dumps(change if isinstance(change, list) else fields))
    with pytest.raises(LandingError, match=message) as error:
        landing.deliveries(tmp_path, "readings")
    assert str(path) in str(error.value)


def test_a_manifest_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = deliver(tmp_path).manifest_path
    path.write_bytes(b'{"table": "\xff\xfe"}')
    with pytest.raises(LandingError, match="not readable as JSON"):
        landing.deliveries(tmp_path, "readings")


def test_the_range_only_ever_widens(tmp_path: Path) -> None:
    assert landing.partition_range(tmp_path) is None
    first, last = date(2020, 5, 1), date(2020, 5, 3)
    landing.update_range(tmp_path, first=first, last=last, newest_fact_delivered_at=SEVEN)
    narrower = landing.update_range(
        tmp_path, first=last, last=last, newest_fact_delivered_at=SEVEN - timedelta(days=1)
    )
    assert narrower == landing.PartitionRange(first, last, SEVEN)
    landing.update_range(
        tmp_path,
        first=first - timedelta(days=1),
        last=last,
        newest_fact_delivered_at=SEVEN + timedelta(days=1),
    )
    assert json.loads((tmp_path / "range.json").read_bytes()) == {
        "first": "2020-04-30",
        "last": "2020-05-03",
        "newest_fact_delivered_at": "2020-05-03T07:00:00Z",
    }
    assert landing.partition_range(tmp_path) == landing.PartitionRange(
        date(2020, 4, 30), last, SEVEN + timedelta(days=1)
    )


@pytest.mark.parametrize("text", ["", "{}", '{"first": "x", "last": "2020-05-01"}'])
def test_a_bad_range_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "range.json").write_text(text)
    with pytest.raises(LandingError, match=r"range\.json"):
        landing.partition_range(tmp_path)


def test_a_year_of_four_tables_is_listed_in_well_under_a_second(tmp_path: Path) -> None:
    template = deliver(tmp_path).manifest_path.read_text()
    for day in range(1500):
        partition = (date(2020, 5, 2) + timedelta(days=day)).isoformat()
        path = tmp_path / "readings" / f"{partition}.manifest.json"
        path.write_text(template.replace('"2020-05-01', f'"{partition}'))
    used = time.process_time()
    found = landing.deliveries(tmp_path, "readings")
    used = time.process_time() - used
    assert len(found) == 1501
    assert used < 0.5
