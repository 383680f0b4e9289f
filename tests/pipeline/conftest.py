"""What the tests of whole runs share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contrail.online_fetch import Group, fetch_of
from contrail.online_layout import encode_key
from contrail.online_views import online_view
from contrail.settings import Settings
from resources.feature_store import FeatureStoreResource
from tests.support.cut_home import cut
from tests.support.pushed_day import CUT, Whole
from tests.support.whole_graph import Home


@pytest.fixture(scope="session")
def default_year(tmp_path_factory) -> Home:
    """The default project's whole year, from nothing, by the command; `home.outcome` is what it said at the end.

    Tests may add to it what changes nothing that is there.
    """
    home = Home(tmp_path_factory.mktemp("default_year"))
    home.outcome = json.loads(home.contrail("run", "--json"))
    return home


@pytest.fixture(scope="module")
def whole(three_weeks: Settings) -> Iterator[Whole]:
    made = Whole(three_weeks)
    yield made
    made.con.close()


@pytest.fixture(scope="module")
def morning(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The home as it was at the cut."""
    return cut(whole.settings, tmp_path_factory.mktemp("push") / "morning", CUT)


@pytest.fixture
def home(morning: Settings, tmp_path: Path) -> Settings:
    """A copy of it, to be pushed into."""
    shutil.copytree(morning.home, tmp_path / "home")
    return Settings(home=tmp_path / "home")


@pytest.fixture
def leg(home: Settings) -> Callable[[str], dict[str, Any]]:
    """An aircraft's row as it stands online."""
    store = FeatureStoreResource(home=str(home.home)).store()
    view = online_view(store.config, store.get_feature_view("aircraft_leg"))

    def read(tail: str) -> dict[str, Any]:
        fetch = fetch_of(store.config, [Group([view])])
        ((stored,),) = fetch.fetch([[encode_key({"tail_number": tail}, view.keys)]])
        fetch.close()
        return dict(zip(view.features, stored.values[0] or [], strict=False)) | {
            "event_us": stored.event_us[0]
        }

    return read
