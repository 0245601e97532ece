"""The settings: the README's one table, and a page of them by section."""

from __future__ import annotations

from collections.abc import Iterable

from shared.config import SettingRow, describe_settings
from tools.reference.tables import table

BEGIN = "<!-- settings: written by `make docs-reference`, not by hand -->"
END = "<!-- end of settings -->"
HIDDEN = "testing."
"""Switches for tests only."""
HEAD = """# Settings

Written by `make docs-reference` from `shared/settings.py` and what it holds. How the file is made, and how `${NAME}` is
filled: the [README](../../README.md#configuration). An unknown name, or a value out of its bounds, is refused at the
start with file, line and reason; `aqueduct check` tells before.

"""
SECTIONS = {
    "models.NAME.": "A model",
    "models.NAME.wake.": "Waking a model",
    "models.NAME.sleep.": "Sending a model to sleep",
    "models.NAME.backends[].": "A backend of a model",
    "groups[].": "A group of tokens",
    "tokens[].": "A token",
    "api.": "API processes",
    "worker.": "Workers",
    "batches.": "Batches",
    "storage.": "The file store",
    "usage.": "Usage",
    "flower.": "Flower",
    "lanes.": "Weights of the lanes",
}
"""Titles of what begins so; the longest that fits counts. A section without one is titled by its name."""
EVERYTHING = "Everything else"


def shown(rows: Iterable[SettingRow]) -> list[SettingRow]:
    """Return the settings that people may use."""
    return [row for row in rows if not row.name.startswith(HIDDEN)]


def settings_table(rows: Iterable[SettingRow]) -> str:
    """Return settings as a Markdown table."""
    return table(("setting", "value", "default", "what it is"), map(_cells, shown(rows)))


def _cells(row: SettingRow) -> tuple[str, str, str, str]:
    default = "" if row.default == "none" else row.default if row.default == "required" else f"`{row.default}`"
    return f"`{row.name}`", row.type, default, row.description


def in_readme(text: str) -> str:
    """Return the README with the present settings; ValueError when a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the two lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{settings_table(describe_settings())}\n\n{END}{after}"


def page() -> str:
    """Return the page: a table a section, with the variable that sets each outside of the file."""
    sections: dict[str, list[SettingRow]] = {}
    for row in shown(describe_settings()):
        sections.setdefault(_section(row.name), []).append(row)
    order = [*SECTIONS.values(), *(title for title in sections if title not in SECTIONS.values())]
    parts = []
    for title in (*(title for title in order if title != EVERYTHING), EVERYTHING):
        rows = sections.get(title, [])
        has_variables = any(row.variable for row in rows)
        heads = ("setting", "value", "default", "what it is", *(["variable"] if has_variables else []))
        cells = [
            (*_cells(row), *([f"`{row.variable}`" if row.variable else ""] if has_variables else [])) for row in rows
        ]
        parts += [f"## {title}\n\n{table(heads, cells)}"] * bool(rows)
    return HEAD + "\n\n".join(parts) + "\n"


def _section(name: str) -> str:
    fitting = [start for start in SECTIONS if name.startswith(start)]
    if fitting:
        return SECTIONS[max(fitting, key=len)]
    return f"`{name.partition('.')[0]}`" if "." in name else EVERYTHING
