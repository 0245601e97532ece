"""What a built site would ask of other servers: nothing is allowed to.

In: a folder of HTML, CSS and JavaScript. Out: each foreign address that a browser would fetch by itself. Links that a
person follows may lead anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
_LINKS_FETCHED = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
_FOREIGN = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
_IN_SCRIPT = re.compile(r"""(?:fetch|import|importScripts|open)\(\s*["'`]((?:https?:)?//[^"'`]+)""")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.fetched += [given[name] for name in _FETCHED.get(tag, ()) if name in given]
        if tag == "link" and _LINKS_FETCHED & set(given.get("rel", "").lower().split()):
            self.fetched.append(given.get("href", ""))
        self.fetched += _IN_CSS.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag in {"style", "script"}:
            self.fetched += _IN_CSS.findall(data) if self.lasttag == "style" else _IN_SCRIPT.findall(data)


def foreign(site: Path) -> Iterator[str]:
    """Yield `file: address` for whatever a browser would fetch from elsewhere."""
    for file in sorted(site.rglob("*")):
        if file.suffix not in {".html", ".css", ".js", ".svg"}:
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix in {".html", ".svg"}:
            page = _Page()
            page.feed(text)
            asked = [address for address in page.fetched if _FOREIGN.match(address)]
        else:
            asked = (_IN_CSS if file.suffix == ".css" else _IN_SCRIPT).findall(text)
        yield from (f"{file.relative_to(site)}: {address}" for address in asked)
