"""The chart's switches: each a name, its states, and the values that a state stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.helm.charting import merged

LARGE: Final = "Vendor/Large-Model:70B"
BASE: Final[dict[str, Any]] = {
    "models": {
        "small": {
            "settings": {
                "aliases": ["fast"],
                "max_queue_bytes": 10_000_000,
                "backends": [{"url": "http://small.llm.svc:8000/v1", "api_key": "${SMALL_KEY}"}],
            },
            "secret": {"values": {"SMALL_KEY": "sk-small"}},
        },
        LARGE: {
            "settings": {
                "concurrency": 8,
                "max_wait_seconds": 600,
                "backends": [{"url": "http://large.llm.svc:8000/v1", "api_key": "${LARGE_KEY}"}],
            },
        },
    },
    "config": {"tokens": [{"name": "team-a", "sha256": "${TEAM_A_TOKEN_SHA256}"}]},
}
HOLD: Final = {"models": {LARGE: {"settings": {"when_absent": "hold"}}}}
MADE: Final = {
    "secrets": {
        "common": {"values": {"TEAM_A_TOKEN_SHA256": "0" * 64}},
        "worker": {"values": {"LARGE_KEY": "sk-large"}},
        "api": {"values": {"AWS_ACCESS_KEY_ID": "aws"}},
    }
}
EXISTING: Final = {
    "secrets": {"common": {"existing": "tokens"}},
    "models": {LARGE: {"secret": {"existing": "large-key"}}},
    "viewerToken": {"existing": "the-viewer"},
    "flower": {"existing": "the-flower"},
    "redis": {"existing": "the-redis"},
}
GIVEN: Final = {
    "tokens": {"TEAM_A_TOKEN_SHA256": "0" * 64},
    "large-key": {"LARGE_KEY": "sk-large"},
    "the-viewer": {"token": "looks", "sha256": "1" * 64},
    "the-flower": {"password": "flowers"},
    "the-redis": {"password": "redis1"},
    "the-url": {"url": "sentinel://one:26379,two:26379/mymaster/0"},
}
"""The Secrets that `EXISTING` names: what an operator made."""


def _scaled(least: int) -> dict[str, Any]:
    return {"models": {LARGE: {"autoscaling": {"enabled": True, "minReplicas": least}}}}


def _wake(**more: Any) -> dict[str, Any]:
    return {"models": {LARGE: {"wake": {"deployment": "large", **more}}}}


SWITCHES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "secrets": {"made": MADE, "existing": EXISTING},
    "scaling": {"off": {}, "on": _scaled(1), "to zero": merged(_scaled(0), HOLD)},
    "wake": {"off": {}, "on": _wake(), "with sleep": _wake(kind="StatefulSet", idleSeconds=900)},
    "reload": {"on": {}, "off": {"reload": False}},
    "api": {"fixed": {}, "scaled": {"api": {"autoscaling": {"enabled": True}}}},
    "flower": {"on": {}, "off": {"flower": {"enabled": False}}},
    "redis": {
        "redis": {},
        "valkey": {"redis": {"flavour": "valkey", "storage": {"className": "fast"}}},
        "url": {"redis": {"enabled": False, "external": {"url": "rediss://:p4ss@redis.example.com:6380/1"}}},
        "its Secret": {"redis": {"enabled": False, "external": {"existing": "the-url", "ports": [26379, 6379]}}},
    },
    "ingress": {
        "off": {},
        "on": {"ingress": {"enabled": True, "host": "llm.example.com", "tlsSecret": "tls"}},
        "Flower too": {"ingress": {"enabled": True, "host": "a.example.com", "flowerHost": "b.example.com"}},
        "another": {"ingress": {"enabled": True, "host": "a.example.com", "className": "", "nginx": False}},
    },
    "policy": {
        "off": {},
        "on": {"networkPolicy": {"enabled": True}},
        "strict": {
            "networkPolicy": {
                "enabled": True,
                "from": [{"namespaceSelector": {}}],
                "apiEgress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}],
                "workerEgress": [],
            }
        },
    },
    "budgets": {"on": {}, "off": {"podDisruptionBudget": {"enabled": False}}},
    "monitor": {"off": {}, "on": {"monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "p"}}}}},
    "rules": {"off": {}, "on": {"monitoring": {"prometheusRule": {"enabled": True, "labels": {"release": "p"}}}}},
    "boards": {"off": {}, "on": {"monitoring": {"dashboards": {"enabled": True, "annotations": {"folder": "llm"}}}}},
    "account": {"made": {}, "given": {"serviceAccount": {"create": False, "name": "other"}}},
    "extras": {
        "none": {},
        "all": {
            "image": {"digest": "sha256:" + "ab" * 32},
            "imagePullSecrets": [{"name": "registry"}],
            "fullnameOverride": "gateway",
            "strategy": "Recreate",
            "service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
            "config": {"api": {"drain_seconds": 60, "trusted_proxies": ["10.0.0.1"]}, "worker": {"drain_seconds": 90}},
            **{
                name: {
                    "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
                    "podAnnotations": {"x/y": "z"},
                    "podLabels": {"team": "a"},
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"key": "gpu", "operator": "Exists"}],
                    "affinity": {"nodeAffinity": {}},
                    "priorityClassName": "high",
                }
                for name in ("api", "worker", "flower")
            },
        },
    },
}


def values_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a row of states."""
    made = BASE
    for switch, state in row.items():
        made = merged(made, SWITCHES[switch][state])
    return made
