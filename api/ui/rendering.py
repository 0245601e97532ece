"""Templates in, text out; and the files beside them. Both are part of the package and read once."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from api.ui.filters import FILTERS

_STATIC: Final = resources.files("api.ui") / "static"


class StaticFile(NamedTuple):
    """A file that browsers keep: its address changes with what is in it."""

    content: bytes
    media_type: str
    version: str


@cache
def static_files() -> dict[str, StaticFile]:
    """Return all of them by name."""
    found = {}
    for file in _STATIC.iterdir():
        content = file.read_bytes()
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        found[file.name] = StaticFile(content, media_type, hashlib.sha256(content).hexdigest()[:12])
    return found


def static(name: str) -> str:
    """Return the address of a file, as templates write it."""
    return f"/ui/static/{name}?v={static_files()[name].version}"


@cache
def environment() -> Environment:
    """Return what templates are read with."""
    made = Environment(
        loader=PackageLoader("api.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.globals["static"] = static
    made.filters.update(FILTERS)
    return made


def rendered(template: str, **context: Any) -> str:
    """Return a template's text."""
    return environment().get_template(template).render(context)
