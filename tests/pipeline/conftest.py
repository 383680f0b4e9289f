"""What the tests of whole runs share."""

from __future__ import annotations

import json

import pytest

from tests.support.whole_graph import Home


@pytest.fixture(scope="session")
def default_year(tmp_path_factory) -> Home:
    """The default project's whole year, from nothing, by the command; `home.outcome` is what it said at the end.

    Tests may add to it what changes nothing that is there.
    """
    home = Home(tmp_path_factory.mktemp("default_year"))
    home.outcome = json.loads(home.contrail("run", "--json"))
    return home
