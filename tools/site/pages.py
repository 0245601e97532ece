"""Which pages the site has, in which order, and what each is to Sphinx.

In: Markdown files of `docs/` and three of the root, as a repository's host shows them. Out: the same with links that
lead inside of the site. What is no page (code, tests, folders) is named by its path in place of a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from posixpath import normpath, relpath

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the root that are pages too, and their names in the site."""
FRONT = "docs/index.md"


@dataclass(frozen=True)
class Section:
    """Part of the navigation: files in this order, or folders, whose other pages follow by name."""

    title: str
    members: tuple[str, ...]


SECTIONS = (
    Section("Begin", ("docs/quickstart.md", "README.md", "docs/how-to/migrate.md", "docs/how-to/compose.md")),
    Section("Backends", ("docs/how-to/serve-a-backend.md", "docs/backends")),
    Section("Clients", ("docs/clients", "docs/compatibility.md")),
    Section(
        "How to",
        (
            "docs/how-to/tokens.md",
            "docs/how-to/share.md",
            "docs/how-to/tune-queues.md",
            "docs/how-to/run-batches.md",
            "docs/how-to/leave-and-come-back.md",
            "docs/how-to/sleep-and-wake.md",
            "docs/how-to",
        ),
    ),
    Section("Operate", ("docs/operate", "docs/reliability.md", "docs/security.md", "docs/performance.md")),
    Section("Reference", ("docs/reference", "docs/protocol.md", "docs/glossary.md")),
    Section("Why it is so", ("docs/design.md", "docs/adr")),
    Section("Project", ("CHANGELOG.md", "CONTRIBUTING.md", "docs")),
)
"""The last folder takes up whatever no other section has, so that no page is lost."""


class BrokenLink(Exception):
    """A link that leads nowhere; the text names page and link."""


def pages(root: Path = ROOT) -> dict[str, str]:
    """Return each page's path in the repository with its path in the site."""
    found = sorted(path.relative_to(root).as_posix() for path in root.glob("docs/**/*.md"))
    return {path: path.removeprefix("docs/") for path in found} | {
        path: name for path, name in ROOT_PAGES.items() if (root / path).exists()
    }


def navigation(every: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Return the sections with their pages' paths in the site; each page but the front stands in exactly one."""
    named = {member for section in SECTIONS for member in section.members if member.endswith(".md")}
    taken = {FRONT}
    sections = []
    for section in SECTIONS:
        here = [path for member in section.members for path in _members(member, every, named) if path not in taken]
        taken.update(here)
        if here:
            sections.append((section.title, [every[path] for path in here]))
    return sections


def _members(member: str, every: dict[str, str], named: set[str]) -> Iterator[str]:
    if member.endswith(".md"):
        if member in every:
            yield member
        return
    yield from (path for path in every if path.startswith(f"{member}/") and path not in named)


_FENCE = re.compile(r"^\s*(```|~~~)")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_ANCHOR = re.compile(r'^<a id="([^"]+)"></a>$', re.MULTILINE)
_HEADING = re.compile(r"^#{1,4} (.+)$")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")


def for_site(path: str, text: str, every: dict[str, str], root: Path = ROOT) -> str:
    """Return a page's text with links as the site needs them; raises BrokenLink."""
    parts = []
    for fenced, lines in groupby(_lines(text), key=itemgetter(0)):
        block = "\n".join(line for _, line in lines)
        if not fenced:
            block = _LINK.sub(lambda link: _link(link, path, every, root), _ANCHOR.sub(r"(\1)=\n", block))
        parts.append(block)
    return "\n".join(parts) + "\n"


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each line, and whether it is one of a fenced block; the fences are."""
    fenced = False
    for line in text.splitlines():
        is_fence = bool(_FENCE.match(line))
        yield fenced or is_fence, line
        fenced ^= is_fence


def anchors(text: str) -> set[str]:
    """Return what a page's headings, and the places that are named in it, are called behind a #."""
    found = set()
    for fenced, line in _lines(text):
        if not fenced and (heading := _HEADING.match(line)):
            words = re.sub(r"[^\w\- ]", "", _LINK.sub(r"\2", heading[1]).lower())
            found.add(words.strip().replace(" ", "-"))
        elif anchor := _ANCHOR.match(line):
            found.add(anchor[1])
    return found


def _link(link: re.Match[str], path: str, every: dict[str, str], root: Path) -> str:
    image, text, target = link.groups()
    if _SCHEME.match(target):
        return link[0]
    if "](" in text:  # an image that leads somewhere
        text = _LINK.sub(lambda inner: _link(inner, path, every, root), text)
    file, _, anchor = target.partition("#")
    meant = normpath(f"{path.rpartition('/')[0] or '.'}/{file}") if file else path
    here = every[path].rpartition("/")[0] or "."
    if anchor and meant in every and anchor not in anchors((root / meant).read_text(encoding="utf-8")):
        raise BrokenLink(f"{path}: {meant} has no heading #{anchor}")
    if not file:
        return link[0]
    if meant in every:
        return f"{image}[{text}]({relpath(every[meant], here)}{'#' * bool(anchor)}{anchor})"
    if not (root / meant).exists():
        raise BrokenLink(f"{path}: the link to {target} leads nowhere")
    if image:
        return f"![{text}]({relpath(meant.removeprefix('docs/'), here)})"
    name = text.strip("`")
    return f"`{meant}`" if meant.rstrip("/").endswith(name.rstrip("/")) else f"{text} (`{meant}`)"


def toctrees(sections: list[tuple[str, list[str]]]) -> str:
    """Return the navigation in Sphinx's words, to stand at the end of the front page."""
    return "\n".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *map(_entry, files), "```"])
        for title, files in sections
    )


def _entry(name: str) -> str:
    return f"The README: all on one page <{name}>" if name == ROOT_PAGES["README.md"] else name


def write_sources(folder: Path, root: Path = ROOT) -> None:
    """Write every page as Sphinx is to read it, and the images, into an empty folder."""
    every = pages(root)
    for path, name in every.items():
        text = for_site(path, (root / path).read_text(encoding="utf-8"), every, root)
        if path == FRONT:
            text += toctrees(navigation(every)) + "\n"
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for image in root.glob("docs/**/*"):
        if image.suffix in {".png", ".svg", ".webp"}:
            target = folder / image.relative_to(root / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image.read_bytes())
