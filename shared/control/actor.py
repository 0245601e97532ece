"""Who acts, and by which way: what each entry of the audit log begins with."""

from __future__ import annotations

import getpass
import os
from typing import Final, NamedTuple

COMMAND: Final = "command"
HTTP: Final = "http"
CELERY: Final = "celery"
UI: Final = "ui"


class Actor(NamedTuple):
    """A token's name, or a user of the machine."""

    by: str
    via: str


def machine_user() -> str:
    """Return who runs this: who became root, if they did; a number where the machine knows no name."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container without a line for this user
        return str(os.getuid())
