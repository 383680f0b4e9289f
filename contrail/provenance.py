"""Which code and which environment made something: recorded with every write."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from contrail import __version__
from contrail.settings import REPO_ROOT, Settings


@cache
def git_sha(repo_root: Path = REPO_ROOT) -> str:
    """The checked-out commit, with ``+dirty`` when tracked files differ from it; ``unknown`` outside a checkout."""

    program = shutil.which("git")
    if program is None:
        return "unknown"

    def git(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=repo_root, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # an installed image without git or without its history


def recorded_git_sha(settings: Settings) -> str:
    """The commit to record: the setting where one is given (images without git), else the checkout's."""
    return settings.git_sha or git_sha(settings.repo_root)


def code_version() -> str:
    """The version of this library."""
    return __version__


@cache
def lock_sha256(repo_root: Path = REPO_ROOT) -> str:
    """The hash of the dependency lock: which environment this is."""
    return hashlib.sha256((repo_root / "requirements.lock").read_bytes()).hexdigest()
