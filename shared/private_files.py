"""Files that hold secrets: a path in, its text or a safely written file out; what others could put there is refused.

A folder or file is trusted when it belongs to us (or to root) and nobody else may write to it. Whatever this module
makes is readable by its owner only.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedPath(Exception):
    """A folder or file that somebody else owns or could have changed; the text says how to mend it."""


def private_folder(path: Path) -> Path:
    """Make the folder (0700) where it is missing, and return it.

    Raises:
        UntrustedPath: another user owns it or may write to it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.stat()
    _trust(path, found, "folder", "700")
    if found.st_uid == os.geteuid():
        path.chmod(0o700)
    return path


def read_private(path: Path) -> str:
    """Return the file's text; FileNotFoundError where there is none.

    Raises:
        UntrustedPath: another user owns it or may write to it.
    """
    with path.open(encoding="utf-8") as file:
        _trust(path, os.fstat(file.fileno()), "file", "600")  # of what was opened, not of what the path names by then
        return file.read()


def write_private(path: Path, text: str) -> None:
    """Replace the file (0600, in a folder 0700) as a whole or not at all.

    Raises:
        UntrustedPath: another user owns its folder or may write to it.
    """
    private_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write to an open file does not tell which
        raise


def _trust(path: Path, found: os.stat_result, kind: str, mode: str) -> None:
    if found.st_uid not in {os.geteuid(), 0}:
        raise UntrustedPath(
            f"The {kind} {path} belongs to another user (id {found.st_uid}), who could put tokens or passwords there. "
            "Name a folder of your own with data_dir (AQUEDUCT_DATA_DIR)."
        )
    if found.st_mode & _OTHERS_WRITE:
        raise UntrustedPath(
            f"The {kind} {path} can be written by other users (mode {stat.S_IMODE(found.st_mode):o}), who could put "
            f"tokens or passwords there. Look at what it holds, then run: chmod {mode} {path}"
        )
