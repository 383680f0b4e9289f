"""The validation page: every rule of a contract against every partition, as one HTML file.

It needs nothing but itself: no script, no font, no picture from anywhere. Great Expectations' own pages load five
libraries from the network and are empty without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrail.contracts import Contract
from contrail.ingest_report import PartitionReport, RuleResult

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_CLASSES = {"reject": "row to quarantine", "fix": "repaired downstream", "warn": "only counted"}


@dataclass(frozen=True)
class _RuleLine:
    """A rule over all partitions; `results` has one entry per partition, None where it was not judged."""

    name: str
    rule_class: str
    expectation: str
    description: str
    arguments: str
    results: tuple[RuleResult | None, ...]

    @property
    def judged(self) -> int:
        return sum(result.element_count for result in self.results if result)

    @property
    def unexpected(self) -> int:
        return sum(result.unexpected_count for result in self.results if result)

    @property
    def broken(self) -> list[RuleResult]:
        return [result for result in self.results if result and not result.success]


def render(contract: Contract, reports: Sequence[PartitionReport]) -> str:
    """The page for some partitions of a table, in their order.

    Args:
        reports: what ingestion reported; each gives one column of the table of rules.

    Returns:
        HTML that works offline and under a policy that forbids scripts.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only who wants the page pays for it

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ordered = sorted(reports, key=lambda report: report.partition)
    return environment.get_template("validation_page.html.jinja").render(
        contract=contract,
        classes=_CLASSES,
        reports=ordered,
        rules=_rule_lines(contract, ordered),
        totals={
            "landed": sum(report.landed for report in ordered),
            "accepted": sum(report.accepted for report in ordered),
            "quarantined": sum(report.quarantined for report in ordered),
            "retracted": sum(report.retracted for report in ordered),
        },
        blocked=[report for report in ordered if report.status == "blocked"],
        warned=[report for report in ordered if report.warnings],
    )


def write(path: Path, contract: Contract, reports: Sequence[PartitionReport]) -> None:
    """Put the page into a file, whose folder is made where it is missing; a reader never sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(render(contract, reports), encoding="utf-8")
    temporary.replace(path)


def _rule_lines(contract: Contract, reports: Sequence[PartitionReport]) -> list[_RuleLine]:
    """The contract's own rules first, in its order, then those that every contract has."""
    found: list[dict[str, RuleResult]] = [{one.rule: one for one in report.rules} for report in reports]
    any_result = {name: result for results in found for name, result in results.items()}
    arguments = {rule.name: _arguments(rule.kwargs) for rule in contract.rules}
    names = [
        *(name for name in arguments if name in any_result),
        *(n for n in any_result if n not in arguments),
    ]
    return [
        _RuleLine(
            name=name,
            rule_class=any_result[name].rule_class,
            expectation=any_result[name].expectation,
            description=any_result[name].description,
            arguments=arguments.get(name, ""),
            results=tuple(results.get(name) for results in found),
        )
        for name in names
    ]


def _arguments(kwargs: Any) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
