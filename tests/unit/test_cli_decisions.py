"""Decisions from the command line: what each command says, in words and as JSON, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cli.app import main
from contrail import decisions
from contrail.decisions import Anchor
from contrail.lake import Lake
from contrail.settings import REPO_ROOT, Settings
from resources.decisions import Recorded
from tests.support.decided_models import COMMIT, ask, champion_version, register, two_approvals, world
from tests.support.small_model import NOW, USE_CASE

Said = tuple[int, str, str]
Run = Callable[..., Said]
LATER = "MLflow follows later"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """The lake of the home: version 1 is champion, version 2 challenger, version 3 does not meet a criterion."""
    made = world(Settings(home=tmp_path).lake_root)
    register(made, 3, unmet=("max_bias",))
    return made


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Anchor]]:
    """The anchors that were left elsewhere; MLflow is down."""
    found: list[tuple[str, Anchor]] = []

    def leave(settings: Settings, use_case: str, anchor: Anchor) -> list[str]:
        found.append((use_case, anchor))
        return [LATER]

    def recorded(settings: Settings) -> Recorded:
        return Recorded([("Dagster", anchor) for _, anchor in found], ["MLflow could not be asked"])

    monkeypatch.setattr("resources.decisions.after_decision", leave)
    monkeypatch.setattr("resources.decisions.recorded_anchors", recorded)
    return found


@pytest.fixture
def run(
    lake: Lake,
    left: list[tuple[str, Anchor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command at `NOW`: exit code, output, complaint."""
    declare(monkeypatch, USE_CASE)
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path))
    monkeypatch.setenv("CONTRAIL_CLOCK", "replay")

    def command(*arguments: str, at: timedelta = timedelta(0)) -> Said:
        monkeypatch.setenv("CONTRAIL_REPLAY_AT", (NOW + at).isoformat())
        monkeypatch.setattr(sys, "argv", ["contrail", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def declare(monkeypatch: pytest.MonkeyPatch, use_case: Any) -> None:
    """Make it the first of two declared use cases."""
    monkeypatch.setattr("feature_repo.use_cases.USE_CASES", {use_case.name: use_case, "full_jar": use_case})
    monkeypatch.setattr("feature_repo.use_cases.DEFAULT_USE_CASE", use_case.name)


def decided(run: Run, *arguments: str, at: timedelta = timedelta(0)) -> dict[str, Any]:
    code, out, _ = run(*arguments, "--json", at=at)
    assert code == 0, out
    return json.loads(out)


BOB, ADA = ("--by", "Bob", "--reason", "better"), ("--by", "Ada", "--reason", "agreed")


# --- deciding ---------------------------------------------------------------------------------------------------------


def test_request_approve_and_roll_back_in_words(run: Run, lake: Lake, left: list[tuple[str, Anchor]]) -> None:
    code, out, _ = run("request", "2", *BOB)
    request_id = decisions.read(lake)[-1].request_id
    assert code == 0
    assert f"request {request_id}: broken_jar version 2 (" in out
    assert "valid until 2024-04-05 00:00Z; 1 person must approve, not Bob" in out
    assert f"next: contrail approve {request_id} --by NAME --reason TEXT" in out
    assert f"note: {LATER}" in out
    code, out, _ = run("approve", request_id, *ADA)
    assert code == 0
    assert "champion is now broken_jar version 2 (" in out
    assert champion_version(lake) == 2
    code, out, _ = run("rollback", "--by", "Eve", "--reason", "errors")
    assert code == 0
    assert "champion is again broken_jar version 1 (" in out
    assert champion_version(lake) == 1
    assert [anchor for _, anchor in left] == [row.anchor for row in decisions.read(lake)[-3:]]
    assert f"anchor {left[-1][1]}" in out


def test_where_two_must_approve_the_first_is_told_so(
    run: Run, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, two_approvals())
    _, out, _ = run("request", "2", *BOB)
    assert "2 people must approve, not Bob" in out
    request_id = decisions.read(lake)[-1].request_id
    _, out, _ = run("approve", request_id, *ADA)
    assert f"request {request_id} is approved by 1 of 2: broken_jar version 2" in out
    _, out, _ = run("approve", request_id, "--by", "Eve", "--reason", "agreed")
    assert "champion is now broken_jar version 2" in out


def test_a_decision_as_json(run: Run, lake: Lake) -> None:
    asked = decided(run, "request", "2", *BOB)
    row = decisions.read(lake)[-1]
    assert asked["anchor"] == str(row.anchor)
    assert asked["warnings"] == [LATER]
    assert asked["decision"]["request_id"] == row.request_id
    assert asked["decision"]["event"] == "requested"
    assert asked["decision"]["expires_at"] == "2024-04-05T00:00:00+00:00"
    answered = decided(run, "reject", row.request_id, "--by", "Ada", "--reason", "worse at night")
    assert (answered["decision"]["event"], answered["decision"]["reason"]) == ("rejected", "worse at night")
    assert lake.commits(decisions.TABLE)[-1].run_id.startswith("cli ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("request", "3", *BOB), "broken_jar version 3 does not meet its criteria: max_bias"),
        (
            ("request", "2", *BOB, "--use-case", "none"),
            "there is no use case 'none'; declared: broken_jar, full_jar",
        ),
        (("request", "2", *BOB, "--use-case", "full_jar"), "waits already"),
        (("request", "2", "--by", " ", "--reason", "x"), "a decision needs the name of who takes it"),
        (
            ("request", "2", "--by", "\udcff", "--reason", "x"),
            "the name holds '\\udcff', which does not show",
        ),
        (("approve", "abc", *ADA), "there is no request 'abc': contrail models lists them"),
        (("approve", "REQUEST", *BOB), "Bob asked for it, and who asks cannot approve"),
        (("reject", "abc", *ADA), "there is no request 'abc': contrail models lists them"),
        (("rollback", *ADA), "broken_jar has no earlier champion to go back to"),
    ],
)
def test_what_is_refused_ends_with_1_and_says_why(
    run: Run, lake: Lake, left: list[tuple[str, Anchor]], arguments: tuple[str, ...], why: str
) -> None:
    request_id = ask(lake, 2)
    before = decisions.head(lake)
    given = [request_id if one == "REQUEST" else one for one in arguments]
    code, out, err = run(*given)
    assert (code, out) == (1, "")
    assert why in err
    code, out, _ = run(*given, "--json")
    assert code == 1
    assert why in json.loads(out)["error"]
    assert decisions.head(lake) == before
    assert left == []


def test_who_and_why_must_be_given(run: Run) -> None:
    code, _, err = run("approve", "abc", "--by", "Ada")
    assert code == 2
    assert "--reason" in err


# --- looking ----------------------------------------------------------------------------------------------------------


def test_models_shows_versions_requests_and_what_is_next(run: Run, lake: Lake) -> None:
    _, out, _ = run("models")
    assert "champion    version 1, since 2024-04-02 00:00Z by rule:first-model" in out
    assert "challenger  version 3" in out
    assert "! version 3 does not meet max_bias: 0.061, limit 0.05" in out
    assert "other use cases (--use-case): full_jar" in out
    assert "next" not in out
    request_id = ask(lake, 2)
    found = decided(run, "models")
    assert [v["role"] for v in found["versions"]] == ["champion", "archived", "challenger"]
    assert found["versions"][2]["unmet"] == ["max_bias: 0.061, limit 0.05"]
    assert (found["champion"]["version"], found["challenger"]["version"]) == (1, 3)
    (waiting,) = found["requests"]
    assert (waiting["request_id"], waiting["state"], waiting["needed"]) == (request_id, "open", 1)
    (line,) = found["next"]
    assert line == (
        f"contrail approve {request_id} --by NAME --reason TEXT    "
        "(or reject: broken_jar version 2 waits for a person other than Bob, until 2024-04-05 00:00Z)"
    )
    late = decided(run, "models", at=timedelta(days=4))
    assert late["requests"][0]["state"] == "expired"
    assert late["next"] == []


def test_models_says_that_a_good_challenger_may_be_asked_for(run: Run, lake: Lake) -> None:
    register(lake, 4)
    (line,) = decided(run, "models")["next"]
    assert line.startswith("contrail request 4 --use-case broken_jar --by NAME --reason TEXT")
    register(lake, 4, note="again", unmet=("parity",))
    assert decided(run, "models")["next"] == []


def test_models_of_a_home_without_any(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path / "another"))
    code, out, _ = run("models")
    assert code == 0
    assert "no model is registered yet: contrail run" in out
    assert run("history")[1] == "broken_jar: there is no champion now\n"


def test_history_says_what_was_champion_when(run: Run, lake: Lake) -> None:
    hour = timedelta(hours=1)
    request_id = decided(run, "request", "2", *BOB, at=hour)["decision"]["request_id"]
    decided(run, "approve", request_id, *ADA, at=2 * hour)
    decided(run, "rollback", "--by", "Eve", "--reason", "errors", at=3 * hour)

    def at(instant: str) -> tuple[int | None, list[str]]:
        found = decided(run, "history", "--at", instant)
        champion = found["champion"]
        return champion and champion["version"], [row["event"] for row in found["decisions"]]

    start = ["registered", "promoted", "registered", "registered"]
    assert at("2024-04-01T23:59Z") == (None, [])
    assert at("2024-04-02T00:00Z") == (1, start)
    assert at("2024-04-02T01:59Z") == (1, [*start, "requested"])
    assert at("2024-04-02T04:30+02:00") == (2, [*start, "requested", "promoted"])
    assert at("2024-04-02T03:00Z") == (1, [*start, "requested", "promoted", "rolled_back"])
    _, out, _ = run("history", "--at", "2024-04-02T02:00Z")
    assert re.search(r"champion at 2024-04-02 02:00Z is version 2 \(\w{12}\), since .* by Ada: agreed", out)
    assert "rolled_back" not in out
    assert "rolled_back" in run("history")[1]


def test_an_instant_without_a_zone_is_refused(run: Run) -> None:
    code, _, err = run("history", "--at", "2024-04-02T02:00")
    assert (code, err) == (
        1,
        "contrail: --at '2024-04-02T02:00' has no zone: write 2024-04-02T02:00Z for UTC\n",
    )


def test_an_instant_that_no_calendar_has_in_utc_is_refused(run: Run) -> None:
    code, _, err = run("history", "--at", "0001-01-01T00:00+14:00")
    assert (code, err) == (1, "contrail: --at '0001-01-01T00:00+14:00' lies outside of the calendar\n")


def test_nothing_heavy_is_needed_to_look(lake: Lake, tmp_path: Path) -> None:
    ask(lake, 2)
    script = (
        "import sys\nfrom cli.app import main\n"
        "for command in ('models', 'history'):\n"
        "    sys.argv = ['contrail', command, '--json']\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code, ended.code\n"
        "heavy = {'dagster', 'mlflow', 'feast', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {
        "PATH": "", "CONTRAIL_HOME": str(tmp_path), "CONTRAIL_CLOCK": "replay", "CONTRAIL_REPLAY_AT": NOW.isoformat(),
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", script], cwd=REPO_ROOT, env=environment, check=True, capture_output=True
    )


def test_status_shows_what_waits_for_people_and_the_command_for_it(run: Run, lake: Lake) -> None:
    request_id = ask(lake, 2)
    found = decided(run, "status")
    mine = [model for model in found["models"] if model["use case"] == "broken_jar"]
    assert [(model["version"], model["role"], model["criteria"]) for model in mine] == [
        (1, "champion", "all met"),
        (2, "archived", "all met"),
        (3, "challenger", "1 unmet"),
    ]
    waiting = next(one for one in found["requests"] if one["use case"] == "broken_jar")
    assert (waiting["request"], waiting["version"], waiting["approvals"]) == (request_id, 2, "0 of 1")
    assert any(line.startswith(f"contrail approve {request_id} --by NAME") for line in found["next"])
    _, out, _ = run("status")
    assert "waiting for approval" in out
    assert run("status", at=timedelta(days=4))[1].count("waiting for approval") == 0


def test_status_names_an_altered_log(run: Run, lake: Lake) -> None:
    rows = decisions.read(lake)
    shutil.rmtree(lake.uri(decisions.TABLE))
    lake.create(decisions.TABLE, decisions.SCHEMA)
    forged = [asdict(row) | {"reason": "forged"} for row in rows]
    lake.append(decisions.TABLE, pa.Table.from_pylist(forged, schema=decisions.SCHEMA), COMMIT)
    assert any(
        line.startswith("contrail audit verify") and "row 0" in line
        for line in decided(run, "status")["next"]
    )


# --- auditing ---------------------------------------------------------------------------------------------------------


def cut(lake: Lake, rows: int) -> None:
    """Take the last rows away, as somebody would who may write the files."""
    for path in sorted((Path(lake.uri(decisions.TABLE)) / "_delta_log").glob("*.json"))[-rows:]:
        path.unlink()


def test_audit_of_a_good_log(run: Run, lake: Lake) -> None:
    decided(run, "request", "2", *BOB)
    head = decisions.head(lake)
    code, out, _ = run("audit", "verify", "--anchor", str(head))
    assert code == 0
    assert "trail/decisions: 5 rows, 2 anchors compared" in out
    assert "note: MLflow could not be asked" in out
    assert f"every row is the one that was written\n  anchor {head}" in out
    found = decided(run, "audit", "verify")
    assert (found["holds"], found["first_bad"], found["rows"]) == (True, None, 5)
    assert found["anchors"] == [{"where": "Dagster", "anchor": str(head)}]


def test_audit_of_a_cut_end(run: Run, lake: Lake) -> None:
    decided(run, "request", "2", *BOB)
    head = decisions.head(lake)
    cut(lake, 1)
    code, out, _ = run("audit", "verify")
    assert code == 1
    assert "NOT AS WRITTEN from sequence 4 on: " in out
    assert "the end was cut off after 4 rows" in out
    assert f"Dagster names {head}" in out
    code, out, _ = run("audit", "verify", "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["holds"], found["first_bad"]) == (False, 4)
    assert found["anchors_gone"] == [{"where": "Dagster", "anchor": str(head)}]


def test_audit_with_a_noted_anchor_alone(run: Run, lake: Lake) -> None:
    noted = str(decisions.head(lake))
    assert run("audit", "verify", "--anchor", noted)[0] == 0
    cut(lake, 1)
    assert run("audit", "verify")[0] == 0
    assert run("audit", "verify", "--anchor", noted)[0] == 1
    code, _, err = run("audit", "verify", "--anchor", "12")
    assert (code, err) == (1, "contrail: '12' is no anchor: SEQUENCE:SHA256 is, with 64 hex digits\n")
