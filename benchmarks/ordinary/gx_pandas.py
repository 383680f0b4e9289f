"""The peer of the checks: a contract's rules as Great Expectations runs them on pandas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrail.contracts import Contract

if TYPE_CHECKING:
    import pandas as pd

SQL_RULE = "unexpected_rows_expectation"


class GxOnPandas:
    """A contract's suite over data frames. Its rules must be such as pandas can run."""

    def __init__(self, contract: Contract) -> None:
        import great_expectations as gx

        from contrail.gx_engine import build_suite

        context: Any = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        self._suite = context.suites.add(build_suite(contract))
        asset = context.data_sources.add_pandas("landed").add_dataframe_asset(contract.table)
        self._batches = asset.add_batch_definition_whole_dataframe("file")

    def validate(self, frame: pd.DataFrame) -> bool:
        """Whether a frame keeps all rules.

        Raises:
            RuntimeError: GX could not evaluate one of them.
        """
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        result = batch.validate(self._suite, result_format="SUMMARY")
        for one in result.results:
            if (one.exception_info or {}).get("raised_exception"):
                raise RuntimeError(f"{one.expectation_config}: {one.exception_info}")
        return bool(result.success)


def for_pandas(contract: Contract) -> Contract:
    """The contract without the rules that are SQL conditions, which GX cannot run on pandas."""
    return replace(contract, rules=tuple(rule for rule in contract.rules if rule.expectation != SQL_RULE))


def read_frame(contract: Contract, path: Path) -> pd.DataFrame:
    """A landed file as pandas reads it: nullable integers, instants as instants, an empty field as missing."""
    import pandas as pd

    types = {"INTEGER": "Int32", "BIGINT": "Int64", "DOUBLE": "float64", "VARCHAR": "object"}
    return pd.read_csv(
        path,
        dtype={c.name: types[c.sql_type] for c in contract.columns if c.sql_type in types},
        parse_dates=[c.name for c in contract.columns if c.sql_type not in types],
        keep_default_na=False,
        na_values=[""],
    )
