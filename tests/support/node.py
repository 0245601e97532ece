"""OpenAI's Node SDK as `tests/node` locks it: installed once a lock file, outside the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.processes import ROOT

SOURCE = ROOT / "tests" / "node"


def node_script(name: str, making: Path) -> Path:
    """Put a script of `tests/node` beside the installed packages and return it; `making` is where they are made."""
    return Path(shutil.copy(SOURCE / name, installed(SOURCE, making)))


def installed(source: Path, making: Path) -> Path:
    """Return a folder with the packages that a folder's lock file names, made once in `making`."""
    lock = (source / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aqueduct-tests"
    folder = cache / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (folder / "node_modules" / ".package-lock.json").is_file():
        for needed in ("package.json", "package-lock.json"):
            shutil.copy(source / needed, making)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        cache.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(making, folder)
    return folder
