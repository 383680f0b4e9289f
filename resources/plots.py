"""Pictures as Dagster metadata."""

from __future__ import annotations

import base64

import dagster as dg


def inline_png(content: bytes) -> dg.MarkdownMetadataValue:
    """A PNG that the UI shows in place, without a server that would have to hold it."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(content).decode('ascii')})")
