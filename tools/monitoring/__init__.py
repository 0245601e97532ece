"""Grafana's boards and Prometheus's alert rules, as code: `make docs-reference` writes `deploy/monitoring/` of them."""

from __future__ import annotations

from tools.monitoring import alerts, grafana


def files() -> dict[str, str]:
    """Return what `deploy/monitoring/` holds that is made by code, by path in it."""
    boards = {f"grafana/dashboards/{name}": text for name, text in grafana.texts().items()}
    return {"alerts.yaml": alerts.text(), **boards}
