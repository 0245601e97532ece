"""The chart with its switches in every combination of three: what Helm makes of it is what Kubernetes and we take.

Kubernetes' own objects are held against its schemas, strictly, of the oldest version that the chart allows and of the
newest; those of KEDA and the Prometheus operator against models made of their CRDs, and no field of them may be lost.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from shared.config import load_settings
from shared.settings import Settings
from tests.helm.charting import (
    CHART,
    NAMESPACE,
    RELEASE,
    Object,
    Rendered,
    covering,
    merged,
    parsed,
    release,
    render,
    settings_file,
    texts,
)
from tests.helm.charting import values_of as example
from tests.helm.switches import BASE, GIVEN, HOLD, LARGE, MADE, SWITCHES, values_of
from tests.support.commands import parse

pytestmark = [pytest.mark.full("helm"), pytest.mark.timeout(300)]
OLDEST, NEWEST = "1.25", "1.37"
ROWS: Final = covering({name: list(states) for name, states in SWITCHES.items()}, 3)
PARTS: Final = 4
OF_THE_IMAGE: Final = "/usr/local/lib/aqueduct/"


@cache
def _validating() -> Any:
    """Return the package that has Kubernetes' schemas, which now reads each of them once."""
    import kubernetes_validate  # noqa: PLC0415 - only where the developers' tools are

    kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
    return kubernetes_validate


@cache
def complaint(text: str) -> str:
    """Return what is wrong with an object's text, if anything."""
    found = parsed(text)
    if found is None:
        return ""
    if "." in found["apiVersion"].partition("/")[0] and "k8s.io" not in found["apiVersion"]:
        return _complaint_of_custom(found)
    kubernetes_validate = _validating()
    for version in (OLDEST, NEWEST):
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            return f"{version}: {found['kind']} {found['metadata']['name']}: {error}"
    return ""


def _complaint_of_custom(found: Object) -> str:
    from cloudcoil.models.keda import v1alpha1  # noqa: PLC0415 - only where the developers' tools are
    from cloudcoil.models.prometheus_operator import v1  # noqa: PLC0415

    model = getattr(v1alpha1 if found["apiVersion"] == "keda.sh/v1alpha1" else v1, found["kind"])
    kept = json.loads(model.model_validate(found).model_dump_json(by_alias=True, exclude_unset=True))
    return "" if kept == found else f"{found['kind']} {found['metadata']['name']}: {found} is read as {kept}"


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_switched_kubernetes_takes_it_and_all_that_is_named_is_there(part: int) -> None:
    for row in ROWS[part::PARTS]:
        rendered = render(values_of(row))
        for text in texts(rendered):
            assert complaint(text) == "", row
        found = Rendered([it for text in texts(rendered) if (it := parsed(text)) is not None])
        twice = [name for name, count in Counter((it["kind"], it["metadata"]["name"]) for it in found.all).items()
                 if count > 1]  # fmt: skip
        assert not twice, row
        _assert_that_all_named_is_there(found)
        _assert_that_pods_have_few_rights(found)


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_switched_each_pod_can_read_its_settings(part: int, tmp_path: Path) -> None:
    seen: set[str] = set()
    for row in ROWS[part::PARTS]:
        found = release(values_of(row))
        file = settings_file(tmp_path, found)
        for name, pod in found.pods().items():
            (container,) = pod["spec"]["containers"]
            words = container.get("args", ())
            if not words:
                continue
            assert parse(*words).info_name == words[0]
            environment = found.environment(pod, GIVEN)
            key = json.dumps([words, re.sub(r":\w{40}@", "", str(environment)), file.read_text()])
            if key not in seen:
                seen.add(key)
                _assert_that_it_starts(name, words, file, environment)


def _assert_that_it_starts(name: str, words: list[str], file: Path, environment: Mapping[str, str]) -> None:
    environ = {key: value for key, value in environment.items() if key != "AQUEDUCT_CONFIG"}
    settings = load_settings(
        file, environ=environ, resolve_backend_keys=words[2:] if words[0] == "worker" else words[0] == "check",
        resolve_flower_password=words[0] == "flower", resolve_webhook_secrets=words[0] in ("worker", "check"),
    )  # fmt: skip
    assert list(settings.models) == [LARGE, "small"]
    assert settings.redis.startswith(("redis://:", "rediss://", "sentinel://")), name
    assert settings.models["small"].max_queue_bytes == 10_000_000
    if words[0] == "worker":
        assert all(backend.api_key for backend in settings.models[words[2]].backends)
    elif words[0] != "check":
        assert "sk-" not in str(environ), f"{name} is given a backend's key"
    if words[0] == "flower":
        assert settings.flower.password is not None


def _assert_that_all_named_is_there(found: Rendered) -> None:
    made = {(it["kind"], it["metadata"]["name"]) for it in found.all}
    made |= {("Secret", name) for name in GIVEN} | {("ServiceAccount", "other")}
    pods = [pod["metadata"]["labels"] for pod in found.pods().values()]
    for name, pod in found.pods().items():
        spec = pod["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in made, name
        for volume in spec["volumes"]:
            assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in made, name
    for it in found.all:
        spec = it.get("spec", {})
        selector = {"Service": spec.get("selector"), "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
                    "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels")}.get(it["kind"])  # fmt: skip
        if selector is not None:
            assert any(selector.items() <= labels.items() for labels in pods), it
        if it["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
            assert ("Deployment", spec["scaleTargetRef"]["name"]) in made
            target = found.of("Deployment")[spec["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"], "an upgrade would set what the autoscaler has found"
        if it["kind"] == "ScaledObject":
            (trigger,) = spec["triggers"]
            assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in made
        if it["kind"] == "TriggerAuthentication":
            assert all(("Secret", one["name"]) in made for one in spec["secretTargetRef"])
        if it["kind"] == "ServiceMonitor":
            assert ("Secret", spec["endpoints"][0]["authorization"]["credentials"]["name"]) in made
            services = [one["metadata"]["labels"] for one in found.of("Service").values()]
            matching = [labels for labels in services if spec["selector"]["matchLabels"].items() <= labels.items()]
            assert len(matching) == 1
        if it["kind"] == "Ingress":
            paths = [path for rule in spec["rules"] for path in rule["http"]["paths"]]
            assert all(("Service", path["backend"]["service"]["name"]) in made for path in paths)


def _assert_that_pods_have_few_rights(found: Rendered) -> None:
    for name, pod in found.pods().items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }, name  # fmt: skip
        assert container["resources"]["limits"]["memory"], name
        woken = any("scale" in str(it) and it["metadata"]["name"] == spec["serviceAccountName"]
                    for it in found.of("Role").values())  # fmt: skip
        assert spec["automountServiceAccountToken"] is woken, name
        assert "password" not in json.dumps(container.get("args", "")).lower(), name
    plain = json.dumps([it for it in found.all if it["kind"] != "Secret"])
    for secret in found.of("Secret").values():
        for key, value in secret.get("stringData", {}).items():
            assert value not in plain, f"{key} stands outside of its Secret"


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_helm_lint_finds_nothing_wrong_with_the_examples(name: str) -> None:
    import helm_python  # noqa: PLC0415 - only where the developers' tools are

    found = helm_python.lint(CHART, example(name), strict=True)
    assert not found["errors"]
    assert [it for it in found["messages"] if it["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "models: at least one model is needed"),
        ({"model": {}}, "additional properties 'model' not allowed"),
        ({"models": {"m": {}}}, "missing property 'settings'"),
        ({"models": {"m": {"settings": {}}}}, "missing property 'backends'"),
        ({"models": {"small": {"replica": 2}}}, "additional properties 'replica' not allowed"),
        ({"models": {"small": {"replicas": "two"}}}, "/models/small/replicas"),
        ({"models": {"small": {"wake": {"idleSeconds": 5}}}}, "missing property 'deployment'"),
        ({"models": {"small": {"wake": {"deployment": "d", "kind": "Pod"}}}}, "/models/small/wake/kind"),
        ({"models": {"small": {"autoscaling": {"enabled": True, "minReplicas": 0}}}},
         "models.small: autoscaling.minReplicas of 0 needs settings.when_absent: hold"),
        ({"models": {"small": {"autoscaling": {"enabled": True, "minReplicas": 9}}}},
         "models.small: autoscaling.minReplicas must not be above maxReplicas"),
        ({"models": {"small": {"wake": {"deployment": "d"}, "settings": {"when_absent": "fail"}}}},
         "models.small: wake needs settings.when_absent: hold"),
        ({"models": {"small": {"wake": {"deployment": "d"}, "settings": {"idle_seconds": 3}}}},
         "models.small: wake writes the hooks"),
        ({"config": {"models": {}}}, "/config/models"),
        ({"config": {"redis_url": "redis://r"}}, "/config/redis_url"),
        ({"redis": {"enabled": False}}, "redis.external: url is needed"),
        ({"redis": {"flavour": "keydb"}}, "/redis/flavour"),
        ({"redis": {"maxmemory": "2Gi"}}, "/redis/maxmemory"),
        ({"redis": {"external": {"url": "http://r"}}}, "/redis/external/url"),
        ({"ingress": {"enabled": True}}, "ingress.host is needed"),
        ({"api": {"port": 80}}, "/api/port"),
        ({"api": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "api.autoscaling.minReplicas must not be"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"secrets": {"common": {"value": {}}}}, "additional properties 'value' not allowed"),
        ({"monitoring": {"serviceMonitor": {"interval": "30"}}}, "/monitoring/serviceMonitor/interval"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(values: dict[str, Any], told: str) -> None:
    import helm_python  # noqa: PLC0415 - only where the developers' tools are

    given = values if not values or "m" in values.get("models", ()) else merged(BASE, values)
    with pytest.raises(helm_python.HelmError) as refused:
        render(given)
    assert told in re.sub(r"(?<=at ')/", "/", str(refused.value)), refused.value


def config_checksum(found: Rendered, component: str = "api") -> str:
    (pod,) = [pod for name, pod in found.pods().items() if name.endswith(f"-{component}") and name.startswith("Depl")]
    return str(pod["metadata"]["annotations"]["checksum/config"])


def test_what_is_reloaded_restarts_no_pod_and_the_rest_does() -> None:
    base = merged(BASE, MADE)
    concurrency = merged(base, {"models": {LARGE: {"settings": {"concurrency": 9}}}})
    port = merged(base, {"config": {"api": {"drain_seconds": 40}}})
    before = release(base)
    assert config_checksum(release(concurrency)) == config_checksum(before)
    assert config_checksum(release(port)) != config_checksum(before)
    assert "Job" in {it["kind"] for it in before.all}
    off = {"reload": False}
    assert config_checksum(release(merged(concurrency, off))) != config_checksum(release(merged(base, off)))
    assert "Job" not in {it["kind"] for it in release(merged(base, off)).all}
    secret = release(merged(base, {"secrets": {"common": {"values": {"NEW": "x"}}}}))
    for name, pod in secret.pods().items():
        if name.startswith("Deployment"):
            annotations, others = pod["metadata"]["annotations"], before.pods()[name]["metadata"]["annotations"]
            assert annotations["checksum/secrets"] != others["checksum/secrets"], "a variable does not change by itself"


def test_redis_is_not_restarted_for_the_gateways_sake() -> None:
    """Neither for another configuration nor another version of the chart."""
    before = release(merged(BASE, MADE)).pods()[f"StatefulSet/{RELEASE}-aqueduct-redis"]
    changed = merged(merged(BASE, MADE), {"config": {"api": {"drain_seconds": 40}}, "image": {"tag": "2.0"}})
    assert release(changed).pods()[f"StatefulSet/{RELEASE}-aqueduct-redis"] == before
    labels = before["metadata"]["labels"]
    assert not any("chart" in name or "version" in name for name in labels)
    (container,) = before["spec"]["containers"]
    for setting in ("--appendonly yes", "--maxmemory-policy noeviction", "--slowlog-max-len 0", "--dir /data"):
        assert setting in container["command"][-1]


def test_a_pod_may_take_as_long_as_its_drain() -> None:
    long = {"config": {"api": {"drain_seconds": 99.5}, "worker": {"drain_seconds": 77}}}
    for values, api, worker in ((BASE, 30, 30), (merged(BASE, long), 100, 77)):
        found = release(merged(values, MADE))
        graces = {name: pod["spec"].get("terminationGracePeriodSeconds") for name, pod in found.pods().items()}
        assert graces[f"Deployment/{RELEASE}-aqueduct-api"] == api + 5 + 15
        assert graces[f"Deployment/{RELEASE}-aqueduct-worker-small"] == worker + 15
        (container,) = found.pods()[f"Job/{RELEASE}-aqueduct-reload"]["spec"]["containers"]
        assert int(container["args"][-1]) > api + worker + 120, "pods that end have the former file"
        deadline = found.of("Job")[f"{RELEASE}-aqueduct-reload"]["spec"]["activeDeadlineSeconds"]
        assert deadline < 300 or values is not BASE, "Helm waits for 5 minutes"


def test_names_are_short_enough_and_no_two_models_share_one() -> None:
    models = ["a/b", "a-b", "A-B", "a_b", "x" * 200, "x" * 201, "日本", "日本語", "-", "api", "worker", "common"]
    settings = {"settings": {"backends": [{"url": "http://b/v1"}]}, "secret": {"values": {"K": "v"}}}
    found = release({"models": dict.fromkeys(models, settings), "networkPolicy": {"enabled": True}}, "r" * 50)
    workers = [name for name, it in found.of("Deployment").items() if it["metadata"].get("annotations")]
    assert len(set(workers)) == len(workers) == len(models)
    # A pod's name has 17 more; where it is longer than 63 its host's name is cut, and a worker's health is by that.
    assert max(map(len, workers)) <= 46
    assert len(found.of("Secret")) == len(models) + 2
    for it in found.all:
        assert len(it["metadata"]["name"]) <= 63 and re.fullmatch(
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", it["metadata"]["name"]
        )
        labels = {**it["metadata"]["labels"], **it.get("spec", {}).get("selector", {}).get("matchLabels", {})}
        assert all(len(str(value)) <= 63 for value in labels.values())
    selectors = [json.dumps(it["spec"]["selector"]) for it in found.of("Deployment").values()]
    assert len(set(selectors)) == len(selectors), "two Deployments would take each other's pods"


def test_a_model_that_sleeps_is_scaled_by_its_workers_and_its_last_worker_outlasts_the_hook(tmp_path: Path) -> None:
    values = merged(merged(BASE, MADE), {"models": {LARGE: {
        "wake": {"deployment": "large", "replicas": 2, "idleSeconds": 900},
        "autoscaling": {"enabled": True, "minReplicas": 0, "cooldownSeconds": 60}}}})  # fmt: skip
    found = release(values)
    settings = _settings(found, tmp_path)
    model = settings.models[LARGE]
    assert (model.when_absent, model.idle_seconds) == ("hold", 900)
    assert model.wake is not None and model.sleep is not None
    assert model.wake.command == ("python", f"{OF_THE_IMAGE}scale.py", "deployments/large", "2")
    assert model.sleep.command == ("python", f"{OF_THE_IMAGE}scale.py", "deployments/large", "0")
    (role,) = found.of("Role").values()
    assert role["rules"] == [{"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["large"],
                              "verbs": ["get", "patch"]}]  # fmt: skip
    (scaled,) = found.of("ScaledObject").values()
    assert scaled["spec"]["minReplicaCount"] == 0
    assert scaled["spec"]["cooldownPeriod"] == 900 + 180, "the last worker, who calls `sleep`, would go before"
    assert scaled["spec"]["fallback"]["replicas"] == 1
    assert settings.models["small"].when_absent == "fail"


def _settings(found: Rendered, folder: Path) -> Settings:
    pod = found.pods()[f"Deployment/{RELEASE}-aqueduct-worker-small"]
    environ = {key: value for key, value in found.environment(pod, GIVEN).items() if key != "AQUEDUCT_CONFIG"}
    return load_settings(settings_file(folder, found), environ=environ, resolve_backend_keys=["small"],
                         resolve_flower_password=False)  # fmt: skip


def test_scripts_that_pods_call_are_in_the_image() -> None:
    dockerfile = (CHART.parents[2] / "Dockerfile").read_text()
    found = release(merged(merged(BASE, MADE), SWITCHES["wake"]["with sleep"]))
    called = set(re.findall(rf"{OF_THE_IMAGE}(\w+\.py)", json.dumps(found.all)))
    assert called == {"healthcheck.py", "scale.py"}
    assert all(f"tools/{name}" in dockerfile for name in called)


def _admits(
    policies: Mapping[str, Object], way: str, pod: Mapping[str, str], other: Mapping[str, str], port: int
) -> bool:
    """Tell whether a pod's policies let a connection of this namespace through; `way` is ingress or egress."""
    own = [it["spec"] for it in policies.values() if it["spec"]["podSelector"]["matchLabels"].items() <= pod.items()]
    if not own:
        return True
    for rule in (rule for spec in own for rule in spec[way]):
        peers = rule.get("from" if way == "ingress" else "to")
        is_peer = peers is None or any(
            peer.get("podSelector", {}).get("matchLabels", {}).items() <= other.items() for peer in peers
        )
        is_port = "ports" not in rule or any(one["port"] == port for one in rule["ports"])
        if is_peer and is_port:
            return True
    return False


@pytest.mark.parametrize("state", ["on", "strict"])
def test_policies_let_through_what_the_gateway_needs_and_no_more(state: str) -> None:
    found = release(merged(merged(BASE, MADE), SWITCHES["policy"][state]))
    policies = found.of("NetworkPolicy")
    pods = {name.removeprefix(f"Deployment/{RELEASE}-aqueduct-"): pod["metadata"]["labels"]
            for name, pod in found.pods().items() if name.startswith("Deployment")}  # fmt: skip
    redis = found.pods()[f"StatefulSet/{RELEASE}-aqueduct-redis"]["metadata"]["labels"]
    stranger = {"app": "stranger"}

    def passes(source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
        return _admits(policies, "egress", source, target, port) and _admits(policies, "ingress", target, source, port)

    assert all(passes(pod, redis, 6379) for pod in pods.values())
    assert not passes(stranger, redis, 6379)
    assert not passes(redis, stranger, 443)
    assert not passes(stranger, pods["worker-small"], 80)
    assert not passes(pods["api"], stranger, 8000)
    assert passes(pods["worker-small"], stranger, 8000) is (state == "on")
    assert passes(stranger, pods["api"], 8000)
    assert not passes(stranger, pods["api"], 6379)
    job = found.pods()[f"Job/{RELEASE}-aqueduct-reload"]["metadata"]["labels"]
    assert passes(job, redis, 6379)


def test_the_hold_that_scaling_to_zero_needs_may_be_the_models_own() -> None:
    scaled = {"models": {LARGE: {"autoscaling": {"enabled": True, "minReplicas": 0}}}}
    assert release(merged(merged(merged(BASE, MADE), HOLD), scaled)).of("ScaledObject")
    assert NAMESPACE == "llm"
