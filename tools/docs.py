"""Writes the generated parts of the documentation: the README's table of settings, pages of `docs/reference/`, and what
`deploy/monitoring/` brings for Prometheus and Grafana.

In: the descriptions in the code. Out: files that are changed only where they were out of date; `--check` writes nothing
and ends with 1 where one is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import monitoring  # noqa: E402 - the tree is put on the path first
from tools.reference import commands, endpoints, errors, litellm, metrics, settings  # noqa: E402 - the tree is put on the path first

README = ROOT / "README.md"
PAGES: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "endpoints": endpoints.page,
    "errors": errors.page,
    "litellm": litellm.page,
    "metrics": metrics.page,
    "settings": settings.page,
}
"""Pages of `docs/reference/`, and what writes them."""


def wanted() -> Iterator[tuple[Path, str, str]]:
    """Yield each file that is generated, what it holds and what it should hold."""
    text = README.read_text(encoding="utf-8")
    yield README, text, settings.in_readme(text)
    for name, page in PAGES.items():
        file = ROOT / "docs" / "reference" / f"{name}.md"
        yield file, file.read_text(encoding="utf-8") if file.exists() else "", page()
    for name, text in monitoring.files().items():
        file = ROOT / "deploy" / "monitoring" / name
        yield file, file.read_text(encoding="utf-8") if file.exists() else "", text


def main(arguments: list[str]) -> int:
    """Write what is out of date, or say that it is."""
    found = 0
    for file, is_now, should_be in wanted():
        if is_now == should_be:
            continue
        found = 1
        if "--check" in arguments:
            print(f"{file.relative_to(ROOT)} is out of date: run `make docs-reference`", file=sys.stderr)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(should_be, encoding="utf-8")
            print(f"{file.relative_to(ROOT)} written")
    return found if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
