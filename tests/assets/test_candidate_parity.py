"""Whether online equals offline, as the criterion takes it: from the last comparison, if that compared anything."""

from __future__ import annotations

import dagster as dg
import pytest

from contrail.parity import Compared, Mismatch
from resources import candidates, parity
from resources.parity import NEVER, Parity, Part
from tests.support.small_model import USE_CASE

DIFFERENCE = Mismatch("makers", "share", "maker north", "0.5", "0.25")


def part(view: str, values: int, *mismatches: Mismatch) -> Part:
    return Part(
        Compared(view, values, values, mismatches, ()), "feature/makers@v1", None, "" if values else NEVER
    )


def said(*found: Parity) -> int | None:
    """What the criterion makes of these comparisons, the last of which counts."""
    with dg.DagsterInstance.ephemeral() as instance:
        for each in found:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=candidates.PARITY_CHECK.asset_key,
                    check_name=candidates.PARITY_CHECK.name,
                    passed=not each.mismatches,
                    metadata=parity.metadata(each),
                )
            )
        return candidates._parity_mismatches(instance, USE_CASE)


EQUAL = Parity((part("makers", 9), part(USE_CASE.feature_service, 30)))


def test_the_last_comparison_counts() -> None:
    different = Parity((part("makers", 9, DIFFERENCE), part(USE_CASE.feature_service, 30)))
    assert said(EQUAL) == 0
    assert said(EQUAL, different) == 1
    assert said(different, EQUAL) == 0


@pytest.mark.parametrize(
    "found",
    [
        (),
        (Parity(()),),
        (EQUAL, Parity((part("makers", 9), part(USE_CASE.feature_service, 0)))),
        (Parity((part("makers", 9), part("of_another_model", 30))),),
    ],
    ids=["never", "nothing", "no vector", "of another model"],
)
def test_what_compared_no_vector_of_this_use_case_says_nothing(found: tuple[Parity, ...]) -> None:
    assert said(*found) is None
