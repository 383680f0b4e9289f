"""A landing zone with one table and a session to take it in: for tests of ingestion."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from contrail import landing
from contrail.ingest import IngestResult, ingest
from contrail.ingest_report import PartitionReport
from tests.support import contract_files as files


class World:
    """A contract, a landing zone and a session."""

    def __init__(self, folder: Path, con: Any) -> None:
        self.folder = folder
        self.root = folder / "landing"
        self.con = con
        self.contract = files.contract(folder)

    def rewrite(self, **custom: Any) -> None:
        self.contract = files.contract(self.folder, files.document(**custom))

    def ingest(self, **more: Any) -> IngestResult:
        return ingest(self.contract, landing.deliveries(self.root, "readings"), con=self.con, **more)

    def only(self) -> PartitionReport:
        (report,) = self.ingest().partitions
        return report


def rewrite_bytes(delivery: landing.Delivery, data: bytes, *, honest: bool = True) -> None:
    """Replace a landed file's bytes, with a manifest that names them unless it shall lie."""
    delivery.path.write_bytes(data)
    if honest:
        manifest = json.loads(delivery.manifest_path.read_text())
        manifest |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        delivery.manifest_path.write_text(json.dumps(manifest))


def books_balance(result: IngestResult) -> bool:
    kept = sum(not row for row in result.accepted.column("is_retracted").to_pylist())
    refused = sum(result.quarantined.column("rows").to_pylist())
    return kept + refused == sum(report.landed for report in result.partitions)
