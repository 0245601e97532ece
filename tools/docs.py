"""Writes the generated parts of the documentation: the README's table of settings, and the page of all metrics.

In: the descriptions in the code. Out: files that are changed only where they were out of date; `--check` writes nothing
and ends with 1 where one is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared.config import SettingRow, describe_settings  # noqa: E402 - the tree is put on the path first
from shared.metrics import exposition, names  # noqa: E402

README = ROOT / "README.md"
METRICS_PAGE = ROOT / "docs" / "reference" / "metrics.md"
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


_METRICS_HEAD = """# Metrics

Written by `make docs` from `shared/metrics/names.py`. How to read them: [metrics](../how-to/metrics.md).

"""


def metrics_page() -> str:
    """Return the page of all metrics: each with its type, labels and meaning, and OpenTelemetry's names."""
    rows = ["| metric | type | labels | what it says |", "| --- | --- | --- | --- |"]
    for metric in (*names.READ, *names.COUNTED, names.TOKENS_TOTAL):
        labels = ", ".join(f"`{label}`" for label in metric.all_labels)
        rows.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    buckets = ["| histogram | upper bounds of its buckets |", "| --- | --- |"]
    for metric in names.COUNTED:
        if metric.buckets:
            buckets.append(f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |")
    gen_ai = ["| OpenTelemetry's name | labels | made of |", "| --- | --- | --- |"]
    for row in exposition.GEN_AI:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        gen_ai.append(f"| `{row.name}` | {labels} | `{row.metric.name}` |")
    return _METRICS_HEAD + "\n\n".join("\n".join(table) for table in (rows, buckets, gen_ai)) + "\n"


def main(arguments: list[str]) -> int:
    """Write what is out of date, or say that it is."""
    text = README.read_text(encoding="utf-8")
    page = METRICS_PAGE.read_text(encoding="utf-8") if METRICS_PAGE.exists() else ""
    found = 0
    for file, is_now, wanted in ((README, text, with_settings(text)), (METRICS_PAGE, page, metrics_page())):
        if is_now == wanted:
            continue
        found = 1
        if "--check" in arguments:
            print(f"{file.name} is out of date: run `make docs`", file=sys.stderr)
        else:
            file.write_text(wanted, encoding="utf-8")
            print(f"{file.name} written")
    return found if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
