"""What the chart's `values.yaml` says, for people and for Helm: the table in its README, and `values.schema.json`.

In: the comments above each key: `# --` and a text for the table, `# @` and JSON for the schema, over what follows from
the default value. Of that JSON three words are ours: `$secret` is a Secret's name and its values, `$each` a map of
names to what stands under another key, none of it needed, `$fields` what each has beside. Out: the two files, and the
copies of `deploy/monitoring` inside the chart, which can read no file outside of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "aqueduct"
README: Final = CHART / "README.md"
SCHEMA: Final = CHART / "values.schema.json"
MONITORING: Final = ROOT / "deploy" / "monitoring"
COPIES: Final = CHART / "monitoring"
BEGIN: Final = "<!-- values: written by `make docs-reference`, not by hand -->"
END: Final = "<!-- end of values -->"
_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_SECRET: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "existing": {"type": "string"},
        "values": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


@dataclass
class Value:
    """One key of `values.yaml`."""

    path: tuple[str, ...]
    default: Any
    text: str
    """What the table says; empty where the key only holds others."""
    given: dict[str, Any]
    """What the comment adds to the schema."""
    below: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The path with dots."""
        return ".".join(self.path)


def read_values(text: str) -> list[Value]:
    """Return the keys of a values file, each with what its comment says."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # noqa: S101 - the chart's own file
    return list(_keys(root, (), text.splitlines()))


def _keys(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        text, given = _comment(lines, key.start_mark.line)
        default = yaml.safe_load(yaml.serialize(value))
        made = Value((*above, key.value), default, text, given)
        is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
        if is_block:
            made.below = list(_keys(value, made.path, lines))
        elif not text:
            raise ValueError(f"values.yaml: {made.name} needs a line `# -- …` above it")
        yield made


def _comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """Return text and JSON of the comment that ends right above a line."""
    texts: list[str] = []
    parts: list[str] = []
    for above in reversed(lines[:line]):
        mark, _, rest = above.strip().partition(" ")
        kind, _, said = rest.partition(" ")
        if mark != "#" or kind not in ("--", "@"):
            break
        (texts if kind == "--" else parts).insert(0, said)
    return " ".join(texts), json.loads("".join(parts)) if parts else {}


def schema(values: list[Value]) -> dict[str, Any]:
    """Return the JSON schema of the values: no other key than those of the file, each of its default's type."""
    by_name = {value.name: value for value in values}
    made = {value.path[-1]: _schema_of(value, by_name) for value in values}
    # Helm's own, which reach every chart.
    made["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "required": ["models"],
        "additionalProperties": False,
        "properties": made,
    }


def _schema_of(value: Value, by_name: dict[str, Value]) -> dict[str, Any]:
    given = dict(value.given)
    described = {"description": value.text} if value.text else {}
    if given.pop("$secret", False):
        return {**_SECRET, **described}
    each, fields = given.pop("$each", None), given.pop("$fields", {})
    if each is not None:
        properties = {below.path[-1]: _schema_of(below, by_name) for below in by_name[each].below}
        properties |= {name: _field(one) for name, one in fields.items()}
        entry = {
            "type": "object",
            "required": ["settings"],
            "additionalProperties": False,
            "properties": properties,
        }
        return {"type": "object", **described, "additionalProperties": entry, **given}
    made: dict[str, Any] = {"type": _TYPES[type(value.default)], **described}
    if value.below:
        made["properties"] = {below.path[-1]: _schema_of(below, by_name) for below in value.below}
        if "properties" in given:  # the file's own words, beside keys that the chart does not know
            made["properties"] |= given.pop("properties")
        else:
            made["additionalProperties"] = False
    if "enum" in given:
        made.pop("type")
    return made | given


def _field(given: dict[str, Any]) -> dict[str, Any]:
    return {**_SECRET, "description": given["description"]} if given.get("$secret") else given


def table(values: list[Value]) -> str:
    """Return the values as a Markdown table."""
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    for name, default, text in _rows(values):
        cells = (f"`{name}`", default, text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _rows(values: list[Value]) -> Iterator[tuple[str, str, str]]:
    for value in values:
        if value.text:
            default = json.dumps(value.default, ensure_ascii=False)
            shown = "" if value.below or value.default in ("", {}, []) else f"`{default}`"
            yield value.name, shown, value.text
        each = value.given.get("$each")
        for name, given in value.given.get("$fields", {}).items():
            yield from _field_rows(f"{value.name}.NAME.{name}", given)
        if each is not None:
            yield f"{value.name}.NAME.*", "", f"What stands under `{each}`, for this model alone."
        yield from _rows(value.below)


def _field_rows(name: str, given: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield name, "", given["description"]
    for key, below in given.get("properties", {}).items():
        yield from _field_rows(f"{name}.{key}", below)


def wanted() -> dict[Path, str | None]:
    """Return each file that is written from others, with its content; None for one that is to go."""
    values = read_values((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} of the chart needs the two lines {BEGIN!r} and {END!r}")
    files: dict[Path, str | None] = {
        README: f"{before}{BEGIN}\n\n{table(values)}\n\n{END}{after}",
        SCHEMA: json.dumps(schema(values), indent=1, ensure_ascii=False) + "\n",
    }
    files |= {path: None for path in COPIES.rglob("*") if path.is_file()}
    files |= {COPIES / name: source.read_text(encoding="utf-8") for name, source in _copied()}
    return files


def _copied() -> Iterator[tuple[str, Path]]:
    """Yield what the chart brings along, and under which name: Prometheus's rules, and Grafana's boards."""
    for path in sorted(MONITORING.rglob("*.json")):
        if isinstance(board := json.loads(path.read_text(encoding="utf-8")), dict) and "panels" in board:
            yield f"dashboards/{path.name}", path
    for path in sorted((*MONITORING.rglob("*.yaml"), *MONITORING.rglob("*.yml"))):
        # Provisioning files have `groups` too, of other things.
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = found.get("groups") if isinstance(found, dict) else None
        if groups and all("rules" in group for group in groups) and "apiVersion" not in found:
            yield f"rules/{path.stem}.yaml", path


def main(arguments: list[str]) -> int:
    """Write what is out of date, or with `--check` say that it is; 1 then."""
    found = 0
    for path, text in wanted().items():
        is_now = path.read_text(encoding="utf-8") if path.exists() else None
        if is_now == text:
            continue
        found = 1
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs-reference`", file=sys.stderr)
        elif text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} written")
    return found if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
