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

from cli.asked import parsed_instant
from cli.output import EXIT_BLOCKED, EXIT_FAILED, Failure, failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from resources.push import Closed, LivePush, Pushed

_CLOSE = "close "


def main(file: str, *, feed: str, close: str | None, follow: bool, as_json: bool) -> int:
    """Push lines of JSON; returns 3 where some were refused, 1 where what was taken is not online, else 0."""
    from contrail.lake import LakeError
    from contrail.online_layout import OnlineError
    from contrail.push import PushError
    from resources.push import LivePush

    until = parsed_instant(close) if close else None
    source = nullcontext(sys.stdin) if file == "-" else _opened(file)
    with (
        failures(LakeError, OnlineError, PushError, UnicodeDecodeError),
        source as lines,
        LivePush(Settings()) as live,
    ):
        pushing = _Pushing(live, feed, goes_on=follow, as_json=as_json)
        for batch in _as_they_come(lines) if follow else [[line for line in lines if line.strip()]]:
            pushing.take(batch)
        if until is not None:
            pushing.close(until)
    if pushing.is_behind:
        return EXIT_FAILED
    return EXIT_BLOCKED if pushing.refused else 0


class _Pushing:
    """Pushes batches and closes instants, and prints each. One that goes on says what failed on the standard error.

    Attributes:
        refused: lines that were refused.
        is_behind: whether online lacks something of what was taken: the last call could not write it.
    """

    def __init__(self, live: LivePush, feed: str, *, goes_on: bool, as_json: bool) -> None:
        self._live = live
        self._feed = feed
        self._goes_on = goes_on
        self._as_json = as_json
        self._unclosed: datetime | None = None
        self.refused = 0
        self.is_behind = False

    def take(self, batch: list[str]) -> None:
        """Push a batch, and close where a line says ``close INSTANT``."""
        waiting: list[str] = []
        for line in [*batch, ""]:
            if (closing := line.startswith(_CLOSE)) or not line:
                if waiting:
                    self._push(waiting)
                    waiting = []
                if closing:
                    self._close_as_said(line.removeprefix(_CLOSE).strip())
            else:
                waiting.append(line)

    def close(self, instant: datetime) -> None:
        """Close an instant; where it cannot be written, the next call tries again."""
        from contrail.online_layout import OnlineError

        until = max(instant, self._unclosed) if self._unclosed else instant
        try:
            closed = self._live.close(until)
        except OnlineError as error:
            self._unclosed = until
            self._fail(error)
        else:
            self._unclosed = None
            self.is_behind = False
            _print(closed, as_json=self._as_json)

    def _push(self, lines: list[str]) -> None:
        from resources.push import NotWritten

        try:
            pushed = self._live.push(lines, self._feed)
        except NotWritten as error:
            self._tell(error.pushed)
            self._fail(error)
        else:
            self._tell(pushed)
            self.is_behind = False
            if self._unclosed is not None:
                self.close(self._unclosed)

    def _close_as_said(self, text: str) -> None:
        from contrail.push import PushError

        try:
            self.close(parsed_instant(text))
        except (Failure, PushError) as error:
            if not self._goes_on:
                raise
            self.refused += 1
            _complain(f"the line {_CLOSE}{text} is refused: {error}")

    def _tell(self, pushed: Pushed) -> None:
        self.refused += len(pushed.refused)
        _print(pushed, as_json=self._as_json)

    def _fail(self, error: Exception) -> None:
        if not self._goes_on:
            raise error
        self.is_behind = True
        _complain(str(error))


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


def _complain(message: str) -> None:
    sys.stderr.write(f"contrail: {message}\n")


def _print(done: Pushed | Closed, *, as_json: bool) -> None:
    from resources.push import Closed

    if as_json:
        print_json(done)
        sys.stdout.flush()  # what is printed tells the sender that it is kept
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
