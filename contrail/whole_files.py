"""Files and folders that are there whole or not at all, whatever is killed meanwhile."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it lies on the disk."""
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def put_folder(target: Path, contents: Mapping[str, bytes]) -> bool:
    """Make a folder with these files, which takes its name once all of them are written.

    Args:
        contents: name (it may name a folder inside) → bytes.

    Returns:
        Whether this call made it; False where it was there already, which is left as it is.
    """
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name[:12]}-", dir=target.parent))
    try:
        for name, content in contents.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            write_durably(building / name, content)
        building.chmod(0o755)
        building.rename(target)
    except OSError:
        if not target.exists():  # else somebody else made it meanwhile
            raise
        return False
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return True


def read_recorded(path: Path, recorded: str, refuse: type[Exception]) -> bytes:
    """The bytes of a file whose sha256 was recorded.

    Raises:
        Exception: of the type `refuse`: it is missing or was altered.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise refuse(f"there is no {path}; restore the model's folder from the backup") from error
    found = hashlib.sha256(content).hexdigest()
    if found != recorded:
        raise refuse(f"{path} was altered: its sha256 is {found}, recorded is {recorded}")
    return content
