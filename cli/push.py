"""`contrail push`: events as they happen, into the online store."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cli.output import EXIT_BLOCKED, Failure, failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from resources.push import Closed, LivePush, Pushed

_CLOSE = "close "


def main(file: str, *, feed: str, close: str | None, follow: bool, as_json: bool) -> int:
    """Push lines of JSON; returns 3 where some were refused, else 0."""
    from contrail.lake import LakeError
    from contrail.online_layout import OnlineError
    from contrail.push import PushError
    from resources.push import LivePush

    until = _instant(close) if close else None
    source = nullcontext(sys.stdin) if file == "-" else _opened(file)
    refused = 0
    with (
        failures(LakeError, OnlineError, PushError, UnicodeDecodeError),
        source as lines,
        LivePush(Settings()) as live,
    ):
        for batch in _as_they_come(lines) if follow else [[line for line in lines if line.strip()]]:
            refused += _work(live, batch, feed, as_json=as_json)
        if until is not None:
            _print(live.close(until), as_json=as_json)
    return EXIT_BLOCKED if refused else 0


def _work(live: LivePush, batch: list[str], feed: str, *, as_json: bool) -> int:
    """Push a batch, and close where a line says ``close INSTANT``; how many events were refused."""
    refused = 0
    waiting: list[str] = []
    for line in [*batch, ""]:
        if (closing := line.startswith(_CLOSE)) or not line:
            if waiting:
                pushed = live.push(waiting, feed)
                refused += len(pushed.refused)
                _print(pushed, as_json=as_json)
                waiting = []
            if closing:
                _print(live.close(_instant(line.removeprefix(_CLOSE).strip())), as_json=as_json)
        else:
            waiting.append(line)
    return refused


def _as_they_come(lines: IO[str]) -> Iterator[list[str]]:
    """What has come in the meantime, as one batch, until the stream ends."""
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    failed: list[Exception] = []

    def read() -> None:
        try:
            for line in lines:
                arrived.put(line)
        except (OSError, UnicodeDecodeError) as error:
            failed.append(error)
        finally:
            arrived.put(None)

    threading.Thread(target=read, name="push-reader", daemon=True).start()
    ended = False
    while not ended:
        batch = [arrived.get()]
        while not arrived.empty():
            batch.append(arrived.get())
        ended = batch[-1] is None
        if found := [line for line in batch if line and line.strip()]:
            yield found
    if failed:
        raise Failure(f"the stream cannot be read on: {failed[0]}")


def _opened(file: str) -> IO[str]:
    try:
        return Path(file).open(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from error


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failure(f"{text!r} is no ISO instant: write 2013-12-31T18:00Z") from error
    if at.tzinfo is None:
        raise Failure(f"{text!r} has no zone: write {text}Z for UTC")
    return at


def _print(done: Pushed | Closed, *, as_json: bool) -> None:
    from resources.push import Closed

    if as_json:
        print_json(done)
        return
    if isinstance(done, Closed):
        say(f"Closed {done.instant:%Y-%m-%d %H:%MZ} in {done.seconds:.2f} s")
    else:
        counts = f"{done.accepted} taken, {done.repeated} known already, {len(done.refused)} refused"
        say(f"{done.table}: {counts}, in {done.seconds:.2f} s")
        for one in done.refused:
            say(f"  refused: {one.reason}\n    {one.event}")
        for one in done.left_out:
            say(f"  left out: {one.report}: {one.reason}")
    rows: list[dict[str, Any]] = [
        {
            "view": one.view, "entities": one.rows, "changed": one.rows_written, "newest known at": one.newest,
            "seconds": one.seconds,
        }
        for one in done.views
    ]  # fmt: skip
    if rows:
        say(table(rows, list(rows[0])))
