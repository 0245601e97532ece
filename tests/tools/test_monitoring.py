"""What `deploy/monitoring/` brings fits what there is: metrics, labels, headings of the runbook, Grafana's grid."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.metrics import names
from shared.metrics.exposition import GEN_AI
from tests.support.processes import ROOT
from tools.monitoring.alerts import ALERTS, RUNBOOK, rule_file
from tools.monitoring.durations import rendered, shortened
from tools.monitoring.grafana import WIDTH, texts

FOLDER = ROOT / "deploy" / "monitoring"
BOARDS = {name: json.loads(text) for name, text in texts().items()}
"""As they are written; that the files are up to date is a test of all that is generated."""
METRICS = {metric.name: metric for metric in (*names.READ, *names.TOLD, *names.COUNTED, names.TOKENS_TOTAL)}
LABELS = {name: set(metric.all_labels) for name, metric in METRICS.items()} | {
    row.name: set(row.labels) for row in GEN_AI
}
OF_PROMETHEUS = {"instance", "job", "le"}


def queries() -> dict[str, str]:
    """Return every query by where it stands."""
    found = {alert.name: alert.expression() for alert in ALERTS}
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                found[f"{name} {panel['title']} {target['refId']}"] = target["expr"]
    return found


def metrics_in(query: str) -> set[str]:
    """Return the metrics that a query names, histograms without what stands behind their names."""
    words = re.findall(r"\b(?:aqueduct|gen_ai)_\w+", re.sub(r"by \([^)]*\)|on \([^)]*\)|\{[^}]*\}", "", query))
    return {re.sub(r"_(bucket|count|sum)$", "", word) if word not in LABELS else word for word in words}


def labels_in(query: str) -> set[str]:
    """Return the labels that a query chooses, groups or matches by."""
    chosen = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", "".join(re.findall(r"\{[^}]*\}", query)))
    grouped = re.findall(r"\w+", " ".join(re.findall(r"(?:by|on) \(([^)]*)\)", query)))
    return {*chosen, *grouped}


@pytest.mark.parametrize(("where", "query"), queries().items(), ids=queries())
def test_a_query_asks_for_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    found = metrics_in(query)
    assert found <= LABELS.keys(), where
    known = OF_PROMETHEUS.union(*(LABELS[name] for name in found))
    assert labels_in(query) <= known, where


def test_every_metric_is_on_a_board_or_watched_by_an_alert() -> None:
    seen = set().union(*map(metrics_in, queries().values()))
    assert METRICS.keys() - seen == set()


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_board_can_be_laid_out_and_names_only_its_own_variables(name: str) -> None:
    board = BOARDS[name]
    assert f"{board['uid']}.json" == name
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = set[tuple[int, int]]()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in own) < WIDTH
        assert not own & cells, panel["title"]
        cells |= own
    declared = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert used == declared


def test_every_alert_leads_to_a_part_of_the_runbook_that_names_it() -> None:
    page = (ROOT / RUNBOOK).read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.+)$", page, re.M)
    }
    assert {alert.anchor for alert in ALERTS} <= anchors
    for alert in ALERTS:
        assert f"`{alert.name}`" in page, alert.name


def test_the_runbook_names_boards_and_panels_as_they_are() -> None:
    page = re.sub(r"`[^`]*`", "", (ROOT / RUNBOOK).read_text())
    looks = re.findall(r"\*\*Look:\*\*(.+?)\n\n", page, re.DOTALL)
    named = set(re.findall(r"\*([^*]+)\*", " ".join(looks)))
    assert len(named) > 20
    titles = {panel["title"] for board in BOARDS.values() for panel in board["panels"]}
    titles |= {board["title"].removeprefix("Aqueduct: ") for board in BOARDS.values()}
    # The runbook leaves out what is behind a comma: "Time of a call, 95 %".
    assert named - titles - {title.partition(",")[0] for title in titles} == set()


def test_times_are_made_shorter_and_nothing_else_is() -> None:
    assert rendered('rate(a{lane!="batch"}[<5m>]) > {60}') == 'rate(a{lane!="batch"}[5m]) > 60'
    assert rendered("rate(a[<5m>]) > {60}", 1 / 60) == "rate(a[5s]) > 1"
    assert [shortened(given, 1 / 60) for given in ("0s", "15s", "2h")] == ["0s", "1s", "120s"]


# --- Prometheus's own word ----------------------------------------------------------------------------------------


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full("promtool")
def test_prometheus_takes_the_rules_and_the_configuration(tmp_path: Path) -> None:
    promtool("check", "rules", str(FOLDER / "alerts.yaml"))
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert configuration["rule_files"] == ["/etc/prometheus/alerts.yaml"]
    configuration["rule_files"] = [str(FOLDER / "alerts.yaml")]
    for job in configuration["scrape_configs"]:
        job.pop("authorization", None)  # a file that is there in the container
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def series(name: str, values: str) -> dict[str, str]:
    return {"series": name, "values": values}


def fires(name: str, at: str, **labels: str) -> dict[str, Any]:
    severity = next(alert.severity for alert in ALERTS if alert.name == name)
    return {"alertname": name, "eval_time": at, "exp_alerts": [{"exp_labels": {"severity": severity, **labels}}]}


def silent(name: str, at: str) -> dict[str, Any]:
    return {"alertname": name, "eval_time": at, "exp_alerts": []}


TIMINGS = [
    (
        [series('aqueduct_oldest_waiting_seconds{model="m"}', "90+60x10")],
        [silent("AqueductQueueWaits", "4m"), fires("AqueductQueueWaits", "6m", model="m")],
    ),
    (  # a queue that is long, and becomes shorter
        [series('aqueduct_jobs_waiting{model="m",lane="default"}', "100-1x60"),
         series('aqueduct_slots{model="m"}', "1+0x60")],
        [silent("AqueductQueueGrows", "30m")],
    ),
    (
        [series('aqueduct_jobs_waiting{model="m",lane="default"}', "2+1x60"),
         series('aqueduct_slots{model="m"}', "1+0x60")],
        [silent("AqueductQueueGrows", "5m"), fires("AqueductQueueGrows", "30m", model="m")],
    ),
    (  # down, and not flapping
        [series('aqueduct_backend_up{model="m",backend="b"}', "0+0x60"),
         series('aqueduct_backend_ejections_total{model="m",backend="b"}', "0+1x60")],
        [silent("AqueductBackendFlaps", "30m"), fires("AqueductBackendDown", "3m", model="m", backend="b"),
         fires("AqueductModelDown", "3m", model="m")],
    ),
    (  # asleep, and not down
        [series('aqueduct_backend_up{model="m",backend="b"}', "0+0x60"),
         series('aqueduct_model_held{model="m",reason="starting"}', "1+0x60")],
        [silent("AqueductBackendDown", "30m"), silent("AqueductModelDown", "30m")],
    ),
    (  # outside its hours a batch stands still
        [series('aqueduct_batch_idle_seconds{model="m"}', "0+60x60"),
         series('aqueduct_batch_lane_open{model="m"}', "0+0x60")],
        [silent("AqueductBatchStuck", "50m")],
    ),
    (
        [series('aqueduct_batch_idle_seconds{model="m"}', "0+60x60")],
        [silent("AqueductBatchStuck", "20m"), fires("AqueductBatchStuck", "40m", model="m")],
    ),
    (
        [series('aqueduct_batch_window_seconds{model="m"}', "3600-60x60"),
         series('aqueduct_batch_lines_left{model="m"}', "5+0x60")],
        [silent("AqueductBatchLate", "30m"), fires("AqueductBatchLate", "40m", model="m")],
    ),
]  # fmt: skip


@pytest.mark.full("promtool")
def test_alerts_fire_when_it_lasts_and_not_before(tmp_path: Path) -> None:
    rules = rule_file()
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    cases = [{"interval": "1m", "input_series": given, "alert_rule_test": expected} for given, expected in TIMINGS]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": cases}))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
