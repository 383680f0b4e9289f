"""The feature tables, all in one place: what exists under ``feature/`` and how each is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from features import history, state
from features.aircraft import AIRCRAFT_LEG
from features.declarations import FeatureColumn, FeatureTable
from features.weather import STATION_WEATHER

__all__ = ["FEATURE_TABLES", "FeatureColumn", "FeatureTable"]

FEATURE_TABLES: Mapping[str, FeatureTable] = MappingProxyType(
    {
        table.name: table
        for table in (
            *(state.state_table(scope) for scope in state.SCOPES),
            *(history.history_table(scope) for scope in history.SCOPES),
            STATION_WEATHER,
            AIRCRAFT_LEG,
        )
    }
)
