"""Writes the generated parts of the documentation: the settings table of the README, between its two markers.

In: the settings' own descriptions. Out: README.md, changed only where it was out of date; `--check` writes nothing and
ends with 1 when it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared.config import SettingRow, describe_settings  # noqa: E402 - the tree is put on the path first

README = ROOT / "README.md"
BEGIN = "<!-- settings: written by `make docs`, not by hand -->"
END = "<!-- end of settings -->"
_HIDDEN = "testing."
"""Switches for tests only."""


def settings_table(rows: Iterable[SettingRow]) -> str:
    """Return the settings as a Markdown table; those that only tests use are left out."""
    lines = ["| setting | value | default | what it is |", "| --- | --- | --- | --- |"]
    for row in rows:
        if row.name.startswith(_HIDDEN):
            continue
        default = "" if row.default in ("none", "required") else f"`{row.default}`"
        if row.default == "required":
            default = "required"
        cells = (f"`{row.name}`", row.type, default, row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def with_settings(text: str) -> str:
    """Return the README with the present settings; ValueError when a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the two lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{settings_table(describe_settings())}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the README, or say whether it is up to date."""
    text = README.read_text(encoding="utf-8")
    wanted = with_settings(text)
    if wanted == text:
        return 0
    if "--check" in arguments:
        print("README.md is out of date: run `make docs`", file=sys.stderr)
        return 1
    README.write_text(wanted, encoding="utf-8")
    print("README.md written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
