"""The snippets of README and docs: Markdown in; fenced blocks out, with their page, line and language."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
LIST = Path(__file__).parent / "unrun.toml"
SHELL = {"sh", "bash"}
RUN = {
    "aqueduct", ".venv/bin/aqueduct", ".venv/bin/python", "celery", "curl",
    "cat", "cp", "echo", "head", "printf", "sha256sum", "sleep",
}  # fmt: skip
"""Programs that snippets may call and are run; any other has its reason in the list."""
_FENCE = re.compile(r"^( *)```(\w*)$")
_ASSIGNMENTS = re.compile(r"""^(?:export\s+)?(?:\w+=(?:"[^"]*"|'[^']*'|\S*?)(?:;\s*|\s+|$))+$""")


@dataclass(frozen=True)
class Snippet:
    """One fenced block, without the indentation of its fence."""

    page: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        """A name for pytest."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """A shell snippet's commands, each on one line; a script with a heredoc is one."""
        if "<<" in self.text:
            return [self.text]
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    @property
    def programs(self) -> set[str]:
        """The first words of a shell snippet's commands."""
        plain = re.sub(r"<<'(\w+)'.*?\n\1\n", "\n", self.text + "\n", flags=re.DOTALL).replace("\\\n", " ")
        plain = re.sub(r"(^|\s)#.*", "", plain, flags=re.MULTILINE)
        firsts = ([word for word in part if not re.match(r"\w+=", word)] for part in _parts(plain))
        return {words[0] for words in firsts if words} - {"export"}


def _parts(script: str) -> Iterator[list[str]]:
    """Yield the words of each command."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    part: list[str] = []
    for word in lexer:
        if set(word) <= set(";&|()\n"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def is_assignment(command: str) -> bool:
    """Whether a line only gives variables values."""
    return _ASSIGNMENTS.match(command.partition(" #")[0].strip()) is not None


def snippets(*languages: str) -> list[Snippet]:
    """Return every snippet in one of these languages; all of them where none is named."""
    found = [snippet for page in PAGES for snippet in read(page, (ROOT / page).read_text(encoding="utf-8"))]
    return [snippet for snippet in found if not languages or snippet.language in languages]


def read(page: str, text: str) -> Iterator[Snippet]:
    """Yield the snippets of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        begin, indent = number, len(fence[1])
        while lines[number].strip() != "```":
            number += 1
        yield Snippet(page, begin, fence[2], "\n".join(line[indent:] for line in lines[begin:number]))
        number += 1


@dataclass(frozen=True)
class Unrun:
    """What `unrun.toml` says: why programs and snippets are not run, and what else is done with these."""

    programs: dict[str, str]
    foreign_yaml: dict[str, str]
    entries: list[dict[str, Any]]

    def of(self, snippet: Snippet) -> dict[str, Any] | None:
        """Return the entry of a snippet, if it has one."""
        fitting = [entry for entry in self.entries if fits(entry, snippet)]
        return fitting[0] if fitting else None

    def reason(self, snippet: Snippet) -> str | None:
        """Return why a shell snippet is not run as it stands; None for one that is."""
        entry = self.of(snippet)
        if entry is not None:
            return str(entry["reason"])
        if snippet.language not in SHELL:
            return None
        return next((self.programs[name] for name in sorted(snippet.programs) if name in self.programs), None)


def fits(entry: dict[str, Any], snippet: Snippet) -> bool:
    """Whether an entry is about a snippet."""
    return entry["page"] == snippet.page and str(entry["begins"]) in snippet.text


def unrun() -> Unrun:
    """Return the list."""
    content = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return Unrun(content["programs"], content["foreign_yaml"], content["snippet"])
