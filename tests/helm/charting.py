"""The chart as Helm itself renders it: values in, Kubernetes' objects out; and rows that cover its switches."""

from __future__ import annotations

import base64
import copy
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.processes import ROOT

CHART: Final = ROOT / "deploy" / "helm" / "aqueduct"
RELEASE: Final = "demo"
NAMESPACE: Final = "llm"
Object = dict[str, Any]
_DEPENDENT = re.compile(r"\$\((\w+)\)")


@cache
def _chart() -> Any:
    import helm_python  # noqa: PLC0415 - only where the developers' tools are

    return helm_python.Chart.load(CHART)


def values_of(name: str) -> dict[str, Any]:
    """Return one of the chart's own examples."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as Helm merges two files of them."""
    made = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = made.get(key)
        made[key] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return made


def render(values: Mapping[str, Any], name: str = RELEASE) -> dict[str, str]:
    """Return each template as text; raises helm_python.HelmError where the chart refuses the values."""
    rendered: dict[str, str] = _chart().render(dict(values), name=name, namespace=NAMESPACE)
    return rendered


def texts(rendered: Mapping[str, str]) -> list[str]:
    """Return the text of each object."""
    whole = "\n---\n".join(text for file, text in rendered.items() if not file.endswith(".txt"))
    return [part for part in re.split(r"(?m)^---$", whole) if part.strip()]


def objects(values: Mapping[str, Any], name: str = RELEASE) -> list[Object]:
    """Return all that is rendered, tests and hooks too."""
    return [found for text in texts(render(values, name)) if (found := parsed(text)) is not None]


@cache
def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - the safe one


def parsed(text: str) -> Object | None:
    """Return an object, or None for a text of nothing but comments."""
    found: Object | None = _parsed(text)
    return found


class Rendered:
    """All objects of one release, by kind and name."""

    def __init__(self, found: Sequence[Object]) -> None:
        self.all = list(found)

    def of(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by their names."""
        return {it["metadata"]["name"]: it for it in self.all if it["kind"] == kind}

    def pods(self) -> dict[str, Object]:
        """Return every pod template, with its labels, by the name of what makes it."""
        made = {}
        for it in self.all:
            if it["kind"] in ("Deployment", "StatefulSet", "Job"):
                made[f"{it['kind']}/{it['metadata']['name']}"] = it["spec"]["template"]
            elif it["kind"] == "Pod":
                made[f"Pod/{it['metadata']['name']}"] = it
        return made

    def environment(self, pod: Object, given: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Return the variables that the pod's container would have; `given` are Secrets that others made."""
        (container,) = pod["spec"]["containers"]
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self._secret(source["secretRef"]["name"], given)
        for variable in container.get("env", ()):
            if "value" in variable:
                found[variable["name"]] = _DEPENDENT.sub(lambda match: found[match[1]], variable["value"])
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = self._secret(reference["name"], given)[reference["key"]]
        return found

    def _secret(self, name: str, given: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
        if name in given:
            return given[name]
        secret = self.of("Secret")[name]
        plain = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        plain.update(secret.get("stringData", {}))
        return plain


def release(values: Mapping[str, Any], name: str = RELEASE) -> Rendered:
    """Return what these values make."""
    return Rendered(objects(values, name))


def covering(switches: Mapping[str, Sequence[str]], strength: int, seed: int = 1) -> list[dict[str, str]]:
    """Return rows in which each combination of so many switches' states occurs."""
    choice = random.Random(seed)
    names = list(switches)
    left = {
        tuple(zip(group, states, strict=True))
        for group in itertools.combinations(names, strength)
        for states in itertools.product(*(switches[name] for name in group))
    }
    rows = []
    while left:
        tried = [_row(switches, choice, min(left) if at == 0 else choice.choice(sorted(left))) for at in range(8)]
        best = max(tried, key=lambda row: len(left.intersection(_groups(row, strength))))
        rows.append(best)
        left.difference_update(_groups(best, strength))
    return rows


def _row(
    switches: Mapping[str, Sequence[str]], choice: random.Random, needed: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    return {name: choice.choice(states) for name, states in switches.items()} | dict(needed)


def _groups(row: Mapping[str, str], strength: int) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(row.items(), strength))


def settings_file(folder: Path, found: Rendered) -> Path:
    """Write the configuration of the release's ConfigMap as the pods would see it."""
    (content,) = (it["data"]["aqueduct.yaml"] for it in found.of("ConfigMap").values() if "aqueduct.yaml" in it["data"])
    file = folder / "aqueduct.yaml"
    file.write_text(content)
    return file
