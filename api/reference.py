"""The OpenAPI description as one page for people: no script, no font, nothing that is asked of anybody else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

Json = Mapping[str, Any]

_STYLE: Final = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem } h3 { margin: 1.5rem 0 .25rem }
code, pre { font: .9em ui-monospace, monospace; background: #f3f3f3; border-radius: 3px; padding: 0 .2em }
pre { padding: .75rem; overflow-x: auto } table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td, th { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid #eee }
.method { font-weight: 600; margin-right: .5em } .needed { color: #a00 } summary { cursor: pointer }
@media (prefers-color-scheme: dark) {
  body { background: #161616; color: #ddd } code, pre { background: #262626 } td, th { border-color: #333 }
  a { color: #8ab4f8 } .needed { color: #f28b82 }
}
"""


def page(document: Json, base_url: str) -> str:
    """Return the page; `base_url` is where the reader has found it."""
    paths = {path: item for path, item in document["paths"].items() if not path.startswith("/v1/")}
    body = "".join(_operations(document, paths))
    schemas = "".join(_schemas(document))
    example = _example(base_url)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<title>{escape(document["info"]["title"])}: endpoints</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>\n"
        "<p>Each path is served as it stands here and behind <code>/v1</code>. Send your token with each request: "
        '<code>Authorization: Bearer TOKEN</code>. For tools: <a href="/openapi.json">/openapi.json</a>.</p>\n'
        f"<pre>{escape(example)}</pre>\n{body}<h2>Schemas</h2>\n{schemas}</html>\n"
    )


def _example(base_url: str) -> str:
    return (
        f"curl -N {base_url}/v1/chat/completions \\\n"
        '  -H "Authorization: Bearer TOKEN" -H "Content-Type: application/json" \\\n'
        '  -d \'{"model": "MODEL", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}\''
    )


def _operations(document: Json, paths: Json) -> Iterator[str]:
    tags: dict[str, list[str]] = {}
    for path, item in paths.items():
        for method, operation in item.items():
            tag = (operation.get("tags") or ["Other"])[0]
            tags.setdefault(tag, []).append(_operation(document, path, method, operation))
    for tag, operations in tags.items():
        yield f"<h2>{escape(tag)}</h2>\n{''.join(operations)}"


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    told = f'<h3><span class="method">{method.upper()}</span><code>{escape(path)}</code></h3>\n'
    told += f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>\n"
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, given in content.items():
        told += f"<p>Body, <code>{escape(media_type)}</code>:</p>\n{_members(document, given.get('schema', {}))}"
    rows = "".join(
        f"<tr><td><code>{escape(status)}</code></td><td>{escape(answer.get('description', ''))}</td>"
        f"<td>{', '.join(_type(given.get('schema', {})) for given in answer.get('content', {}).values())}</td></tr>\n"
        for status, answer in operation.get("responses", {}).items()
    )
    return f"{told}<details><summary>Answers</summary><table>{rows}</table></details>\n"


def _schemas(document: Json) -> Iterator[str]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>\n'
        yield f"<p>{escape(schema.get('description', ''))}</p>\n{_members(document, schema)}</details>\n"


def _members(document: Json, schema: Json) -> str:
    """Return an object's members as a table; anything else as its type."""
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    members = schema.get("properties")
    if not members:
        return f"<p>{_type(schema)}</p>\n"
    needed = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' <span class=needed>required</span>' if name in needed else ''}</td>"
        f"<td>{_type(given)}</td><td>{escape(given.get('description', ''))}</td></tr>\n"
        for name, given in members.items()
    )
    return f"<table>{rows}</table>\n"


def _type(schema: Json) -> str:
    """Return a schema in a few words, with links to those that have a name."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_type(one) for one in schema[word] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    kind = escape(str(schema.get("type", "any")))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    least, most = (schema.get(name) for name in ("minimum", "maximum"))
    limits = " to ".join(str(limit) for limit in (least, most) if limit is not None and abs(limit) < 2**53)
    return f"{kind} {limits}".strip()
