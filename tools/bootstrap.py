"""Make the project's own environment in `.venv`: `python tools/bootstrap.py [requirements.lock]`.

In: a lock file with exact versions. Out: `.venv` with those packages, this project installed editable, and a stamp
so that the next call returns at once. Needs nothing but the standard library: pip comes from the wheel beside this
file, so a Python without `pip` or `ensurepip` (Debian's) will do. Exit 0 when the environment is ready, 1 otherwise.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"


def main(arguments: list[str]) -> int:
    """Bring `.venv` in line with the lock file named on the command line."""
    if sys.version_info < MINIMUM:
        return fail(
            f"Aqueduct needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; {sys.executable} is "
            f"{sys.version_info[0]}.{sys.version_info[1]}. Name another: make PYTHON=/path/to/python3.13 …"
        )
    lock = ROOT / (arguments[0] if arguments else "requirements.lock")
    wanted = fingerprint(lock)
    stamp = ENVIRONMENT / f".ready-{lock.stem}"
    if stamp.is_file() and stamp.read_text() == wanted and PYTHON.exists():
        return 0
    try:
        if not usable_environment():
            create_environment()
        install(lock)
    except subprocess.CalledProcessError as error:
        return fail(f"Installing failed (exit {error.returncode}): see the lines above. The same command resumes it.")
    stamp.write_text(wanted)
    return 0


def fingerprint(lock: Path) -> str:
    """Return what the environment depends on: the lock, the project file, and this folder's place."""
    digest = hashlib.sha256()
    for path in (lock, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(str(ROOT).encode())
    return digest.hexdigest()


def usable_environment() -> bool:
    """Tell whether `.venv` is there, was made in this place, and its Python runs and is new enough."""
    place = ENVIRONMENT / ".place"
    if not PYTHON.exists() or not place.is_file() or place.read_text() != str(ROOT):
        return False
    check = f"import sys; sys.exit(sys.version_info < {MINIMUM!r})"
    return subprocess.run([PYTHON, "-c", check], check=False, stderr=subprocess.DEVNULL).returncode == 0


def create_environment() -> None:
    """Make an empty `.venv`, and put pip into it from the wheel that lies beside this file."""
    say(f"Making .venv with Python {sys.version_info[0]}.{sys.version_info[1]} …")
    if ENVIRONMENT.exists():
        shutil.rmtree(ENVIRONMENT)
    # Symbolic links as `python3 -m venv` makes them; without pip, since Debian's Python has no ensurepip.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
    wheel = next(iter(sorted(Path(__file__).parent.glob("pip-*.whl"), reverse=True)))
    run_pip([str(wheel / "pip")], "--no-index", "--no-deps", str(wheel))
    (ENVIRONMENT / ".place").write_text(str(ROOT))


def install(lock: Path) -> None:
    """Install the lock's packages, then this project as an editable one."""
    say(f"Installing the {sum(1 for _ in lock.open())} packages of {lock.name} (about a minute the first time) …")
    run_pip(["-m", "pip"], "--no-deps", "--requirement", str(lock))
    run_pip(["-m", "pip"], "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def run_pip(program: list[str], *arguments: str) -> None:
    """Run pip with `.venv`'s Python; raises CalledProcessError when it fails."""
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "PIP_USER"}
    }
    options = ("--quiet", "--disable-pip-version-check", "--no-input")
    subprocess.run([PYTHON, *program, "install", *options, *arguments], check=True, cwd=ROOT, env=environment)


def say(text: str) -> None:
    """Tell the person what happens now, without mixing into a pipe."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> int:
    """Say why it failed; returns the exit status."""
    say(f"error: {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
