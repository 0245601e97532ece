"""A LiteLLM configuration in, its values and the place of each out: includes merged as LiteLLM merges them.

LiteLLM's reader is PyYAML's, which takes the last of two keys of one name. So do we, and say so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from aqueduct.errors import WRONG_USAGE, CommandError
from aqueduct.importing.findings import Finding, Verdict
from shared.config_problems import ConfigError, Path
from shared.config_source import Tree, read_tree

MAX_BYTES = 8 * 1024 * 1024
"""Of one file: more is no configuration, and takes minutes to parse."""
MAX_FILES = 200


@dataclass
class Source:
    """What the files say together."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, tuple[str, int]] = field(default_factory=dict)
    """File and line of each value."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, path: Path, verdict: Verdict, to: str = "", text: str = "") -> None:
        """Note what became of the value at `path`."""
        place = path
        while place and place not in self.places:
            place = place[:-1]
        file, line = self.places.get(place, (self.file, None))
        self.findings.append(Finding(path, file, line, verdict, to, text))


def read_source(file: File) -> Source:
    """Read a configuration and what it includes.

    Raises CommandError, with the file, the line and the reason, where that cannot be done.
    """
    source = Source(str(file))
    seen = {os.path.realpath(file)}
    pending = [(file, ())]
    first = True
    while pending:
        one, named_at = pending.pop(0)
        tree = _read(one, source, named_at)
        includes = tree.data.pop("include", None)
        _merge(source, tree)
        for entry in _entries(one, tree, includes):
            found = _resolve(entry, one, file)
            if os.path.realpath(found) in seen:
                text = f"{entry} is read once already; LiteLLM too reads each file once"
                source.findings.append(_at(tree, ("include",), "needless", text))
                continue
            seen.add(os.path.realpath(found))
            if len(seen) > MAX_FILES:
                raise CommandError(f"{one}: includes more than {MAX_FILES} files", status=WRONG_USAGE)
            source.findings.append(_at(tree, ("include",), "taken", f"{entry} is read as a part of this file"))
            pending.append((found, ()))
        if first and not source.data and not pending:
            raise CommandError(f"{file}: is empty: nothing to import", status=WRONG_USAGE)
        first = False
    return source


def _read(file: File, source: Source, named_at: Path) -> Tree:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}", status=WRONG_USAGE) from None
    if len(content) > MAX_BYTES:
        raise CommandError(f"{file}: has more than {MAX_BYTES // 1024**2} MB: no configuration", status=WRONG_USAGE)
    try:
        tree = read_tree(str(file), content)
    except ConfigError as error:
        raise CommandError(str(error), status=WRONG_USAGE) from None
    for problem in tree.problems:
        if "stands twice" in problem.reason:
            text = f"{problem.reason}; the last one counts, as in LiteLLM"
            source.findings.append(Finding((problem.path,), str(file), problem.line, "changed", "", text))
        else:
            source.findings.append(Finding((problem.path,), str(file), problem.line, "left", "", problem.reason))
    return tree


def _entries(file: File, tree: Tree, includes: Any) -> list[str]:
    if includes is None:
        return []
    entries = [includes] if isinstance(includes, str) else includes
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        line = tree.lines.get(("include",))
        raise CommandError(f"{file}:{line}: include: must be a list of files", status=WRONG_USAGE)
    return entries


def _resolve(entry: str, declared_in: File, root: File) -> File:
    """Return the file beside the one that names it; else beside the first, as older versions of LiteLLM have it."""
    beside = declared_in.parent / entry
    return beside if beside.exists() or not (root.parent / entry).exists() else root.parent / entry


def _at(tree: Tree, path: Path, verdict: Verdict, text: str) -> Finding:
    return Finding(path, tree.file, tree.line(path), verdict, "", text)


def _merge(source: Source, tree: Tree) -> None:
    """Put a file's values in: lists behind those that are there, everything else in their place."""
    for key, value in tree.data.items():
        old = source.data.get(key)
        offset = 0
        if isinstance(old, list) and isinstance(value, list):
            offset = len(old)
            source.data[key] = [*old, *value]
        else:
            if key in source.data:
                text = f"stands in {tree.file} too, which counts"
                source.add((key,), "changed", "", text)
            source.places = {path: place for path, place in source.places.items() if path[0] != key}
            source.data[key] = value
        for path, line in tree.lines.items():
            if path[:1] != (key,):
                continue
            moved = (
                (key, path[1] + offset, *path[2:]) if offset and len(path) > 1 and isinstance(path[1], int) else path
            )
            source.places.setdefault(moved, (tree.file, line))
