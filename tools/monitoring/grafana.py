"""Grafana's JSON of a board: panels laid out in rows, thresholds, variables; the same each time it is made."""

from __future__ import annotations

import json
from typing import Any, Final

from tools.monitoring.load_boards import BACKENDS, MODEL, OVERVIEW
from tools.monitoring.panels import VARIABLES, Board, Panel
from tools.monitoring.work_boards import BATCHES, REDIS, USAGE

BOARDS: Final = (OVERVIEW, MODEL, BACKENDS, BATCHES, USAGE, REDIS)
WIDTH: Final = 24
HEIGHTS: Final = {"stat": 4, "timeseries": 8, "bargauge": 8}
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


def board_json(board: Board) -> dict[str, Any]:
    """Return a board as Grafana imports it."""
    return {
        "uid": board.name,
        "title": board.title,
        "tags": ["aqueduct"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "tags": ["aqueduct"], "title": "Aqueduct", "asDropdown": True, "keepTime": True}
        ],
        "templating": {"list": [_source(), *map(_variable, board.variables)]},
        "panels": _panels(board.panels),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": VARIABLES[name], "refId": "variable"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    made, x, y, tallest = list[dict[str, Any]](), 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        place = {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]}
        made.append(_panel(number, panel, place))
        x, tallest = x + panel.width, max(tallest, place["h"])
    return made


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warns_at is not None:
        steps.append({"color": "red", "value": panel.warns_at})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or panel.title,
                "range": True,
                "instant": False,
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        legend = {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}


def texts() -> dict[str, str]:
    """Return the files as they are kept, by name."""
    return {
        f"{board.name}.json": json.dumps(board_json(board), indent=2, ensure_ascii=False) + "\n" for board in BOARDS
    }
