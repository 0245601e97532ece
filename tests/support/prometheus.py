"""A real Prometheus of the test's own, which scrapes and looks at its rules every second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.support.processes import Process, free_port
from tests.support.startable import Startable
from tests.support.waiting import wait_until


class Firing(NamedTuple):
    """An alert that fires."""

    name: str
    labels: dict[str, str]


class Prometheus(Startable):
    """Takes the addresses of API processes (`127.0.0.1:8000`) and a file of rules."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: dict[str, Any]) -> None:
        self.folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._client = httpx.Client(base_url=self.url, timeout=20, verify=False)  # noqa: S501 - plain HTTP, and quickly made
        self._rules = rules
        self._targets = targets
        self._configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "aqueduct", "static_configs": [{"targets": list(targets)}]}],
        }
        self._process = Process(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            folder / "prometheus.log",
        )

    def start(self) -> Prometheus:
        """Start it and wait until it has scraped them all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rules.yaml").write_text(yaml.safe_dump(self._rules))
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(self._configuration))
        self._process.start()

        def has_scraped() -> bool:
            assert self._process.running, self._process.log()
            try:
                return len(self.query("up == 1")) == len(self._targets)
            except httpx.TransportError:
                return False

        wait_until(has_scraped, 60, "Prometheus to scrape", poll_seconds=0.3)
        return self

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and value of each series that an expression gives now."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code in (200, 503), f"{expression}: {answer.text}"
        found = answer.json()["data"]["result"] if answer.status_code == 200 else []
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> list[Firing]:
        """Return the alerts that fire now."""
        alerts = self._client.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return [Firing(one["labels"]["alertname"], one["labels"]) for one in alerts if one["state"] == "firing"]

    def fired(self) -> set[str]:
        """Return the names of the alerts that fire or did, however shortly."""
        return {labels["alertname"] for labels, _ in self.query('last_over_time(ALERTS{alertstate="firing"}[1h])')}

    def stop(self) -> None:
        """End it."""
        self._client.close()
        self._process.stop()
