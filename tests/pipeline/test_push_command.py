"""`contrail push`: files and streams of events, what is said of them, and what a stream keeps when the store fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from datetime import datetime
from typing import Any

import pytest

from cli import push as command
from cli.output import Failure
from contrail.lake import LakeError
from contrail.online_push import OnlinePush
from contrail.online_views import OnlineError
from contrail.push import Journal
from tests.support.pushed_day import journal, leg_of
from tests.support.three_weeks import CONTRAIL

pytestmark = pytest.mark.slow


def test_the_command_pushes_lines_and_says_what_became_of_them(whole, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONTRAIL_HOME", str(home.home))
    departed, arrived, _ = leg_of(whole)
    lines = [json.dumps(row, default=lambda value: value.isoformat()) for row in (departed, arrived)]
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(lines) + "\n")
    code = command.main(
        str(events), feed="flight_events", close="2013-01-21T16:00Z", follow=False, as_json=True
    )
    printed = capsys.readouterr().out
    pushed, closed = (json.loads(part) for part in re.split(r"(?m)(?<=^\})\n(?=\{)", printed))
    assert code == 0
    assert (pushed["accepted"], pushed["refused"]) == (2, [])
    assert [view["view"] for view in pushed["views"]] == ["aircraft_leg"]
    assert closed["instant"] == "2013-01-21T16:00:00+00:00"
    assert {"network_state", "aircraft_leg"} <= {view["view"] for view in closed["views"]}

    stream = tmp_path / "stream.jsonl"
    stream.write_text(f"{lines[0]}\n\n{{oops\nclose 2013-01-21T16:15Z\n")
    code = command.main(str(stream), feed="flight_events", close=None, follow=True, as_json=False)
    said = capsys.readouterr().out
    assert code == 3
    assert "flight_events: 0 taken, 1 known already, 1 refused" in said.replace("\n", " ")
    assert "refused: the event is no JSON" in said
    assert "Closed 2013-01-21 16:15Z" in said
    assert "network_state" in said

    stream.write_bytes(b"{oops\n\xff\n")
    with pytest.raises(Failure, match="the stream cannot be read on: 'utf-8' codec can't decode byte 0xff"):
        command.main(str(stream), feed="flight_events", close=None, follow=True, as_json=False)
    for close, words in (("noon", "is no ISO instant"), ("2013-01-21T16:00", "has no zone")):
        with pytest.raises(Failure, match=words):
            command.main(str(events), feed="flight_events", close=close, follow=False, as_json=False)
    with pytest.raises(Failure, match=r"nothing\.jsonl cannot be read"):
        command.main(
            str(tmp_path / "nothing.jsonl"), feed="flight_events", close=None, follow=False, as_json=False
        )


def test_a_stream_goes_on_when_the_store_fails_and_loses_no_line(
    whole, home, leg, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CONTRAIL_HOME", str(home.home))
    departed, arrived, tail = leg_of(whole)
    before = leg(tail)
    lines = [json.dumps(row, default=lambda value: value.isoformat()) for row in (departed, arrived)]
    stream = tmp_path / "stream.jsonl"
    write, plan = OnlinePush.write, [True, True]

    def locked(pushing: OnlinePush, rows: Any, until: datetime) -> int:
        if plan and plan.pop(0):
            raise OnlineError("the online store is locked by another writer: try again")
        return write(pushing, rows, until)

    def follow(*given: str) -> int:
        stream.write_text("".join(f"{line}\n" for line in given))
        return command.main(str(stream), feed="flight_events", close=None, follow=True, as_json=False)

    monkeypatch.setattr(OnlinePush, "write", locked)
    assert follow(lines[0], "close 2013-01-21T16:00Z") == 1
    said = capsys.readouterr()
    assert "flight_events: 1 taken, 0 known already, 0 refused" in said.out
    assert said.err.count("contrail: the online store is locked by another writer") == 2
    assert "what was taken is kept, and written by the next call" in said.err
    assert leg(tail) == before

    # The start writes what is owed; then two calls fail, and the one after them makes up for both.
    plan += [False, True, True]
    code = follow("close noon", lines[1], "close 2013-01-21T16:00Z", lines[0], "close 2013-02-21T16:00Z")
    said = capsys.readouterr()
    assert code == 3
    done = re.findall(
        r"(?m)^(flight_events: 1 taken|flight_events: 0 taken|Closed 2013-01-21 16:00Z)", said.out
    )
    assert done == ["flight_events: 1 taken", "flight_events: 0 taken", "Closed 2013-01-21 16:00Z"]
    assert said.err.count("locked by another writer") == 2
    assert "the line close noon is refused: 'noon' is no ISO instant" in said.err
    assert (
        "the line close 2013-02-21T16:00Z is refused: 2013-02-21T16:00:00+00:00 lies in the future"
        in said.err
    )
    landed = leg(tail)
    assert (landed["aircraft_leg_stage"], landed["aircraft_leg_departure_delay_minutes"]) == (
        2,
        departed["delay_minutes"],
    )
    assert len(journal(home)) == 2


def test_a_batch_that_cannot_be_journalled_is_not_acknowledged(whole, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONTRAIL_HOME", str(home.home))
    departed, _, _ = leg_of(whole)
    stream = tmp_path / "stream.jsonl"
    stream.write_text(json.dumps(departed, default=lambda value: value.isoformat()))

    def full(_self: Journal, _checked: object) -> None:
        raise LakeError("push/flight_events: no space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(Failure, match="no space left on device"):
        command.main(str(stream), feed="flight_events", close=None, follow=True, as_json=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_a_stream_is_acknowledged_while_it_is_open(whole, home, more):
    departed, _, _ = leg_of(whole)
    running = subprocess.Popen(
        [CONTRAIL, "push", "--follow", *more],
        env=os.environ | {"CONTRAIL_HOME": str(home.home)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdin is not None
    assert running.stdout is not None
    given_up = threading.Timer(60, running.kill)  # were it printed at the end of the stream only
    given_up.start()
    try:
        running.stdin.write(json.dumps(departed, default=lambda value: value.isoformat()) + "\n")
        running.stdin.flush()
        said = ""
        for line in running.stdout:
            said += line
            if not more or line == "}\n":
                break
        assert ('"accepted": 1' if more else "flight_events: 1 taken") in said
        assert len(journal(home)) == 1
        running.stdin.close()
        assert running.wait(timeout=60) == 0
    finally:
        given_up.cancel()
        running.kill()
        running.wait()
        running.stdout.close()
