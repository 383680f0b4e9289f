"""A version of a lake table as MLflow's dataset: which rows a run has seen, by table, version, condition and order.

MLflow's own `from_pandas` takes equal those frames whose first rows are equal and then keeps the older's source; its
source for Delta tables loses version 0 and reads with Spark.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from contrail import duck
from contrail.lake import Lake

CONTEXT = "mlflow.data.context"
SOURCE_TYPE = "contrail_lake"


@dataclass(frozen=True)
class LakeTableSource:
    """Rows of one version of a table; a source as MLflow's registry of sources wants one.

    Attributes:
        table: ``stage/name``.
        version: the version; 0 is one.
        files_sha256: identity of the version's files (`Lake.snapshot_sha256`).
        columns: what was read.
        where: the condition, in SQL.
        order_by: the order that the rows were read in; it is part of the model.
    """

    table: str
    version: int
    files_sha256: str
    columns: tuple[str, ...]
    where: str
    order_by: tuple[str, ...]

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    @staticmethod
    def _can_resolve(raw_source: object) -> bool:
        del raw_source  # a lake table is named, never guessed from a path
        return False

    @property
    def digest(self) -> str:
        """At most 36 characters, and another for another version, other files, other columns or another order."""
        asked = json.dumps([self.columns, self.where, self.order_by]).encode()
        return f"v{self.version}-{self.files_sha256[:14]}-{hashlib.sha256(asked).hexdigest()[:8]}"

    def to_json(self) -> str:
        """What MLflow stores."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, source_json: str) -> LakeTableSource:
        """Read what MLflow stored."""
        stored = json.loads(source_json)
        return cls(**(stored | {name: tuple(stored[name]) for name in ("columns", "order_by")}))

    def load(self, lake_root: Path) -> pa.Table:
        """The rows, from a lake that has the version still; a run does not know where lakes lie."""
        names = ", ".join(duck.quote_identifier(name) for name in self.columns)
        order = ", ".join(duck.quote_identifier(name) for name in self.order_by)
        scan = Lake(lake_root).scan(self.table, self.version)
        with duck.connect() as con:
            found = con.execute(f"SELECT {names} FROM {scan} WHERE {self.where} ORDER BY {order}")
            return found.to_arrow_table()


def register_source() -> None:
    """Let MLflow understand a stored source (`mlflow.data.get_source`)."""
    from mlflow.data.dataset_source_registry import register_dataset_source

    register_dataset_source(LakeTableSource)  # pyright: ignore[reportArgumentType]  # it takes the class


def dataset_input(source: LakeTableSource, context: str, rows: int) -> Any:
    """The source as an input of a run, in a context: ``training`` or ``evaluation``."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        source.table,
        source.digest,
        SOURCE_TYPE,
        source.to_json(),
        profile=json.dumps({"num_rows": rows}),
    )
    return DatasetInput(dataset, [InputTag(CONTEXT, context)])
