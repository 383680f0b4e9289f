"""WHERE it goes: Dagster's adapters over the library. Nothing to the right of this package imports dagster."""
