"""The configuration file in, plain values and the line of each out; also `${NAME}` in its strings.

YAML's own rules for numbers, true and false hold. Beyond them, a key that stands twice is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from shared.config_problems import ConfigError, Path, Problem, dotted

_MAX_VALUES = 100_000
"""Aliases may repeat each other; a file that unfolds to more is a mistake or an attack."""
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_YAMLS_OWN = re.compile(r"'(.{0,3}|<[a-z ]+>)'")
"""What YAML's messages may quote: a sign, or the name of a part such as <stream end>."""
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass
class Tree:
    """A file's values, where each stands, and what was wrong on the way."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    filled: set[Path] = field(default_factory=set)
    """Values that came from `${NAME}`: they may be secret."""
    broken: set[Path] = field(default_factory=set)
    """Values whose problem is already told."""

    def line(self, path: Path) -> int | None:
        """Return the line of a value, or of the nearest thing that holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: Path, reason: str, *, missing_variable: str | None = None) -> None:
        """Note what is wrong with the value at `path`."""
        self.broken.add(path)
        where = self.file, self.line(path)
        self.problems.append(Problem(dotted(path), reason, *where, missing_variable=missing_variable))


def read_tree(file: str, content: bytes) -> Tree:
    """Parse a YAML file; what is wrong with single values stands in the tree's `problems`.

    Raises ConfigError, with that alone, where the file as a whole cannot be read: nothing else is known then.
    """
    tree = Tree(file)
    loader = _loader(file, content)
    try:
        root = loader.get_single_node()
        if root is not None:
            if not isinstance(root, yaml.MappingNode):
                raise _unreadable(file, "must hold settings, one `key: value` a line", root.start_mark.line + 1)
            tree.data = _Reader(loader, tree).value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(file, _syntax_reason(error), mark.line + 1 if mark else None) from None
    except RecursionError:
        raise _unreadable(file, "nests too deeply", None) from None
    finally:
        loader.dispose()
    return tree


def _loader(file: str, content: bytes) -> yaml.SafeLoader:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _unreadable(file, "is not UTF-8 text; save it as UTF-8", line) from None
    try:
        return yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"holds a control character (U+{ord(text[error.position]):04X}); remove it"
        raise _unreadable(file, reason, line) from None


def _unreadable(file: str, reason: str, line: int | None) -> ConfigError:
    return ConfigError([Problem("", reason, file, line)])


def _syntax_reason(error: yaml.MarkedYAMLError) -> str:
    """Say what YAML met, without names: an unquoted password that begins with `*` would be one."""
    problem = error.problem or "cannot be read"
    if "\\t" in problem or "\t" in problem:
        return "a tab stands where YAML wants spaces; indent with spaces"
    if "alias" in problem:
        return "an alias (*name) without its anchor (&name); put text that begins with * in quotes"
    if "but found another document" in problem:
        return "must be one document; remove the line ---"
    plain = re.sub(r"'[^']*'", lambda found: found[0] if _YAMLS_OWN.fullmatch(found[0]) else "'…'", problem)
    return f"is not valid YAML: {plain}; look here and a line above for a missing quote, bracket or colon"


class _Reader:
    """One walk over YAML's nodes."""

    def __init__(self, loader: yaml.SafeLoader, tree: Tree) -> None:
        self._loader = loader
        self._tree = tree
        self._open: list[yaml.Node] = []
        self._flattened: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise yaml.MarkedYAMLError(None, None, "the file unfolds to too many values", node.start_mark)
        self._tree.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _TAGS:
            self._tree.problem(path, "has a tag (!name), unknown here; put text that begins with ! in quotes")
            return None
        if any(node is other for other in self._open):
            self._tree.problem(path, "contains itself by an alias")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)  # noqa: S101 - the third and last kind of node
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self._tree.problem(path, "is not a usable number or date; put it in quotes if it is text")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        if id(node) not in self._flattened:
            self._flattened.add(id(node))
            self._refuse_repeated_keys(node, path)
            self._loader.flatten_mapping(node)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                here = self._tree.lines.get(path)
                self._tree.lines[path] = key_node.start_mark.line + 1
                self._tree.problem(path, "has a key that is not text; put it in quotes")
                if here is not None:
                    self._tree.lines[path] = here
                continue
            self._tree.lines[(*path, key_node.value)] = key_node.start_mark.line + 1
            values[key_node.value] = self.value(value_node, (*path, key_node.value))
        return values

    def _refuse_repeated_keys(self, node: yaml.MappingNode, path: Path) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            line, key = key_node.start_mark.line + 1, key_node.value
            if key in first:
                self._tree.problems.append(
                    Problem(dotted((*path, key)), f"stands twice, first on line {first[key]}", self._tree.file, line)
                )
            first.setdefault(key, line)


def fill_variables(tree: Tree, environ: Mapping[str, str], skip: Callable[[Path], bool]) -> None:
    """Replace each `${NAME}` in the tree's strings; values at paths that `skip` names become None."""

    def fill(value: Any, path: Path) -> Any:
        if skip(path):
            return None
        if isinstance(value, dict):
            return {key: fill(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return _fill_text(tree, value, path, environ)
        return value

    tree.data = fill(tree.data, ())


def _fill_text(tree: Tree, text: str, path: Path, environ: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        named = _VARIABLE.fullmatch(match[1])
        if named is None or not match[2]:
            tree.problem(path, "a variable is written ${NAME} or ${NAME:-default}; write $${ for the characters ${")
            return ""
        tree.filled.add(path)
        found = environ.get(named[1], "")
        if found or named[2] is not None:
            return found or named[2]
        state = "empty" if named[1] in environ else "not set"
        tree.problem(path, f"the environment variable {named[1]} is {state}", missing_variable=named[1])
        return ""

    return _REFERENCE.sub(replace, text)
