"""The page of all HTTP endpoints, from the API's own description."""

from __future__ import annotations

import re
from typing import Any

from fastapi.routing import APIRoute

from api.app import create_app
from api.routes import admin
from shared.catalogue import Catalogue
from shared.settings import Settings
from tools.reference.tables import table

HEAD = """# HTTP endpoints

Written by `make docs-reference` from `/openapi.json`, which every API process serves; `/docs` there is the same with
every member of every request and answer. Each path stands at the root and behind `/v1` (those under `/admin/v1` and of
the process itself as they stand here). A `HEAD` goes wherever a `GET` does, `OPTIONS` everywhere. Errors: [all
codes](errors.md).

"""
_ORDER = ("Chat", "Completions", "Embeddings", "Models", "Requests", "Files", "Batch", "Usage", "Admin", "Health")
_CONVERTER = re.compile(r":\w+}")


def page() -> str:
    """Return the page: a table a group, with who may call and the statuses beside 200 that are told of."""
    settings = {"models": {"m": {"backends": [{"url": "http://backend/v1"}]}}, "redis_url": "redis://redis"}
    document = create_app(Catalogue(Settings.model_validate(settings))).openapi()
    groups: dict[str, list[tuple[str, ...]]] = {}
    for path, item in document["paths"].items():
        if not path.startswith("/v1/"):
            for method, operation in item.items():
                tag = (operation.get("tags") or ["Other"])[0]
                groups.setdefault(tag, []).append(_row(method.upper(), path, operation))
    titles = (*(tag for tag in _ORDER if tag in groups), *(tag for tag in groups if tag not in _ORDER))
    heads = ("request", "what it does", "token", "parameters", "errors")
    return HEAD + "\n\n".join(f"## {title}\n\n{table(heads, groups[title])}" for title in titles) + "\n"


def _row(method: str, path: str, operation: dict[str, Any]) -> tuple[str, ...]:
    said = operation.get("description") or operation["summary"]
    what = said.partition("\n\n")[0].replace("\n", " ")
    parameters = ", ".join(f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] != "path")
    statuses = ", ".join(sorted(status for status in operation["responses"] if status != "200"))
    return f"`{method} {path}`", what, _who(method, path, operation), parameters, statuses


def _who(method: str, path: str, operation: dict[str, Any]) -> str:
    if path == "/metrics":
        return "none on the machine itself, else a viewer's"
    if not path.startswith("/admin"):
        return "any" if operation.get("security") else "none"
    return _roles()[method, path]


def _roles() -> dict[tuple[str, str], str]:
    """Return whose token each endpoint of operators wants, as its function's arguments say."""
    roles = {"ViewerDep": "a viewer's", "OperatorDep": "an operator's"}
    return {
        (method, _CONVERTER.sub("}", route.path)): next(
            roles[kind] for kind in route.endpoint.__annotations__.values() if kind in roles
        )
        for route in admin.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
