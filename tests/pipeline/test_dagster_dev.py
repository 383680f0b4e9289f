"""`dagster dev` on workspace.yaml, as `make dev` starts it: it comes up with the whole graph, on a new home too."""

from __future__ import annotations

import pytest

from contrail import environment
from contrail.settings import Settings


@pytest.mark.slow
def test_dagster_dev_starts_with_the_whole_graph(tmp_path, dagster_server):
    settings = Settings(home=tmp_path / "home")
    environment.write(settings)
    with dagster_server(settings, "dagster", "dev") as server:
        assert {"raw/weather", "clean/departures", "feature/origin_state"} <= server.assets()
