"""What the tests of assets share."""

from __future__ import annotations

import pytest

from tests.support import feature_week as week
from tests.support.feature_week import FeatureWeek


@pytest.fixture(scope="session")
def feature_week(tmp_path_factory: pytest.TempPathFactory) -> FeatureWeek:
    """A week of feature tables. Whoever adds to one restores it."""
    return week.make(tmp_path_factory.mktemp("feature_week"), tmp_path_factory.mktemp("source"))
