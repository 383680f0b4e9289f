"""Checks of the online copy: how fresh every feature view is, and whether online says what offline says."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import dagster as dg
from pydantic import Field

from contrail import view_freshness
from contrail.settings import Settings
from contrail.view_freshness import ViewFreshness
from feature_repo.view_rules import ONLINE_TABLE, view_rules
from resources import parity
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource

FRESHNESS, PARITY = "view_freshness", "parity"
ONLINE = dg.AssetKey(ONLINE_TABLE.split("/"))
SPINE = {"departures": "clean/departures"}

FRESHNESS_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("view", "string", "The feature view."),
        dg.TableColumn("state", "string", ", ".join(view_freshness.STATES)),
        dg.TableColumn("built until", "string", "From the commit of the view's table."),
        dg.TableColumn("behind h", "float", "Hours behind what the complete feeds allow to be built."),
        dg.TableColumn("behind now h", "float", "Hours behind the clock's now."),
        dg.TableColumn(
            "unread sources", "string", "Sources with a newer version than the table was built from."
        ),
        dg.TableColumn("online until", "string", "What was known until then is online."),
        dg.TableColumn("online version", "int", "The table's version that was copied."),
        dg.TableColumn("newest row", "string", "Known-at time of the newest row."),
        dg.TableColumn("row age h", "float", "Its age, hours."),
        dg.TableColumn("max age h", "float", "The age up to which a row answers, hours."),
        dg.TableColumn("outside max age", "bool", "Whether no row answers any more."),
    ]
)


class ParityConfig(dg.Config):
    """How much is compared."""

    sample: int = Field(default=200, ge=1, description="Entities per feature view.")


def build(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """The checks on `feature_store/online`."""
    del settings

    @dg.asset_check(
        asset=ONLINE,
        name=FRESHNESS,
        description="Every feature view is built as far as the feeds are complete, that is what is online, and some "
        "row is within its max age. Warns with the view and what a look-up gives instead.",
    )
    def freshness(
        lake: dg.ResourceParam[LakeResource], feature_store: FeatureStoreResource
    ) -> dg.AssetCheckResult:
        now, complete = lake.clock.now(), lake.complete_until().until
        views = view_freshness.all_views(
            lake.lake,
            view_rules(),
            online_table=ONLINE_TABLE,
            online_place=feature_store.online_place,
            complete_until=complete,
            now=now,
        )
        return _freshness_result(views)

    @dg.asset_check(
        asset=ONLINE,
        name=PARITY,
        description="Sampled entities of every view, and whole vectors: the online store says bit by bit what the "
        "feature tables say of the same instant. A difference names view, column and entity.",
    )
    def online_parity(
        config: ParityConfig, lake: dg.ResourceParam[LakeResource], feature_store: FeatureStoreResource
    ) -> dg.AssetCheckResult:
        found = parity.compare_online(feature_store, now=lake.clock.now(), sample=config.sample, spine=SPINE)
        return dg.AssetCheckResult(
            passed=not found.mismatches,
            severity=dg.AssetCheckSeverity.ERROR,
            description=found.in_words,
            metadata=parity.metadata(found),
        )

    return [freshness, online_parity]


def _freshness_result(views: Sequence[ViewFreshness]) -> dg.AssetCheckResult:
    stale = [view for view in views if view.state != "fresh"]
    return dg.AssetCheckResult(
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(view_freshness.in_words(view) for view in stale)
        or f"all {len(views)} views are fresh",
        metadata={
            "views": dg.MetadataValue.table(
                [dg.TableRecord(dict(_cells(view))) for view in views], FRESHNESS_SCHEMA
            )
        },
    )


def _cells(view: ViewFreshness) -> Iterator[tuple[str, str | float | int | bool | None]]:
    facts, online = view.facts, view.facts.online
    yield "view", view.rules.view
    yield "state", view.state
    yield "built until", _instant(facts.built_until)
    yield "behind h", _hours(view.lag)
    yield "behind now h", _hours(view.lag_to_now)
    yield "unread sources", ", ".join(facts.unread)
    yield "online until", _instant(None if online is None else online.until)
    yield "online version", None if online is None else online.version
    yield "newest row", _instant(facts.newest_known_at)
    yield "row age h", _hours(view.newest_age)
    yield "max age h", _hours(view.rules.max_age)
    yield "outside max age", view.outside_max_age


def _instant(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M}Z"


def _hours(span: timedelta | None) -> float | None:
    return None if span is None else round(view_freshness.hours(span), 1)
