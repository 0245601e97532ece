"""What became of each field of an imported file: place, verdict, and what to do. No text holds a secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from shared.config_problems import Path, dotted

Verdict = Literal["taken", "changed", "left", "needless"]
VERDICTS: dict[Verdict, str] = {
    "left": "Left out",
    "changed": "Taken, but look at it",
    "taken": "Taken",
    "needless": "Needs nothing here",
}
"""In the order in which a person should read them."""


@dataclass(frozen=True)
class Finding:
    """One field of the file that was read, or a whole section, and what became of it."""

    path: Path
    file: str
    line: int | None
    verdict: Verdict
    to: str
    """The setting that it became; empty where it became none."""
    text: str
    """Why, and what to do; empty where the setting says it all."""

    def shown(self, file: str) -> str:
        """Return `line: field -> setting: why`, on one line; the file's name too where it is another than this one."""
        place = f"{self.file}:{self.line or ''}".rstrip(":") if self.file != file else str(self.line or "")
        field = f"{dotted(self.path)} -> {self.to}" if self.to else dotted(self.path)
        return ": ".join(part for part in (f"{place:>4}", field, self.text) if part.strip())

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "field": dotted(self.path), "file": self.file, "line": self.line,
            "verdict": self.verdict, "setting": self.to or None, "text": self.text,
        }  # fmt: skip


def report(findings: Iterable[Finding], file: str) -> str:
    """Return what a person reads: by verdict, the most pressing first, each with its line in the file."""
    findings = list(findings)
    parts = [file]
    for verdict, title in VERDICTS.items():
        lines = [f"  {finding.shown(file)}" for finding in findings if finding.verdict == verdict]
        if lines:
            parts.append("\n".join([f"{title} ({len(lines)})", *lines]))
    return "\n\n".join(parts)


def counts(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """Return how many fields have each verdict."""
    found = Counter(finding.verdict for finding in findings)
    return {verdict: found[verdict] for verdict in ("taken", "changed", "left", "needless")}
