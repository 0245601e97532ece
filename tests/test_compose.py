"""compose.yaml keeps its promises: every service checked and unprivileged, no secret in the file, real commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import load_settings
from tests.support.commands import parse

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "aqueduct-gateway"}
OTHERS = SERVICES.keys() - OURS.keys()
MONITORING = {name: service for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::[?-][^}]*)?\}")


def example_variables() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def example_environment(service: str) -> dict[str, str]:
    """Return a service's environment with every variable of .env filled in."""
    values = {
        name: value or ("http://backend/v1" if name.endswith("_URL") else "0" * 64)
        for name, value in example_variables().items()
    }
    given = OURS[service]["environment"]
    return {key: VARIABLE.sub(lambda match: values[match[1]], str(value)) for key, value in given.items()}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_and_restarts(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_services_of_ours_run_real_commands(name: str) -> None:
    words = OURS[name]["command"]
    assert parse(*words).info_name == words[0]


def test_every_model_of_the_example_has_a_worker() -> None:
    models = yaml.safe_load((ROOT / "aqueduct.example.yaml").read_text())["models"]
    served = [service["command"][1:] for service in OURS.values() if service["command"][0] == "worker"]
    assert sorted(served) == sorted([name] for name in models)


@pytest.mark.parametrize("name", OURS)
def test_example_configuration_is_valid_in_every_service(name: str) -> None:
    resolve = OURS[name]["command"][0] == "worker"
    environment = {key: value for key, value in example_environment(name).items() if key != "AQUEDUCT_CONFIG"}
    settings = load_settings(ROOT / "aqueduct.example.yaml", environ=environment, resolve_backend_keys=resolve)
    assert settings.flower.password is not None
    assert settings.redis.startswith("redis://:")


@pytest.mark.parametrize("name", [name for name in OURS if not name.startswith("worker")])
def test_backend_keys_reach_workers_alone(name: str) -> None:
    assert not [key for key in OURS[name]["environment"] if key.endswith("_KEY")]


def test_variables_of_the_file_are_in_the_example_and_the_other_way_round() -> None:
    assert set(VARIABLE.findall(COMPOSE_TEXT)) == set(example_variables())


def test_no_secret_stands_in_either_file() -> None:
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search(r"PASSWORD|KEY|SHA256|REDIS_URL", name):
                assert VARIABLE.search(value), name
    for name, value in example_variables().items():
        assert not value or name.endswith(("_PORT", "_MAXMEMORY"))


@pytest.mark.parametrize("name", OURS)
def test_services_of_ours_have_few_rights(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_image_runs_as_a_user_without_rights() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^USER aqueduct$", last_stage, re.MULTILINE)


def test_redis_keeps_jobs_and_shows_no_prompt() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    for setting in ("--appendonly yes", "--maxmemory-policy noeviction", "--slowlog-max-len 0"):
        assert setting in command
    assert "--requirepass" not in command


def test_grace_period_outlasts_the_drain() -> None:
    for service in OURS.values():
        if service["command"][0] in {"api", "worker"}:
            assert int(service["stop_grace_period"].removesuffix("s")) > 30


def test_only_the_gateway_starts_where_no_profile_is_asked_for() -> None:
    assert MONITORING.keys() == {"prometheus", "grafana"}
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {*OURS, "redis"}
    for name, service in SERVICES.items():
        assert name in MONITORING or not MONITORING.keys() & service.get("depends_on", {}).keys()


@pytest.mark.parametrize("name", MONITORING)
def test_monitoring_has_few_rights_and_starts_with_no_secret_that_everybody_knows(name: str) -> None:
    service = MONITORING[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    variable = {"prometheus": "PROMETHEUS_TOKEN", "grafana": "GF_SECURITY_ADMIN_PASSWORD"}[name]
    script = service["entrypoint"][-1].replace("$$", "$").partition("exec ")[0].replace("/run/prometheus", "/dev")
    script = script.replace("/dev/token", "/dev/null")
    for value, status in (("", False), ("something", True)):
        done = subprocess.run(["sh", "-c", script], env={variable: value}, capture_output=True, check=False)
        assert (done.returncode == 0) is status
    assert f'"$${{{variable}:?set' in service["entrypoint"][-1]


def test_what_monitoring_mounts_is_there_and_fits_together() -> None:
    for service in MONITORING.values():
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert mode == ["ro"]
            else:
                assert source in COMPOSE["volumes"]
                assert target
    folder = ROOT / "deploy" / "monitoring"
    scraped = yaml.safe_load((folder / "prometheus.yaml").read_text())
    (job,) = scraped["scrape_configs"]
    port = OURS["api"]["command"][OURS["api"]["command"].index("--port") + 1]
    assert job["static_configs"] == [{"targets": [f"api:{port}"]}]
    assert job["authorization"]["credentials_file"] in MONITORING["prometheus"]["entrypoint"][-1]
    mounted = {volume.split(":")[1] for volume in MONITORING["prometheus"]["volumes"]}
    assert set(scraped["rule_files"]) <= mounted
    source = yaml.safe_load((folder / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((folder / "grafana/provisioning/dashboards/aqueduct.yaml").read_text())
    assert boards["providers"][0]["options"]["path"] in {
        volume.split(":")[1] for volume in MONITORING["grafana"]["volumes"]
    }
