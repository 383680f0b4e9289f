"""A lock on a file, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.05


class LockTakenError(RuntimeError):
    """Another process held the lock for as long as it was waited for."""


@contextmanager
def locked(path: Path, *, wait_seconds: float) -> Generator[None]:
    """Hold the lock of this path; the file is made, and stays.

    Raises:
        LockTakenError: another process, or another holder in this one, has it for longer than `wait_seconds`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LockTakenError(f"{path} is locked by another process") from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)
