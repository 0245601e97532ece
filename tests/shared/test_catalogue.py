"""The catalogue: what a reload changes, what it names only, and that a bad file changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.catalogue import Catalogue, Changes, Source
from shared.config_problems import ConfigError

BACKENDS = [{"url": "http://127.0.0.1:9/v1", "api_key": "canary-key"}]


def write(path: Path, **more: Any) -> Catalogue:
    content = {"models": {"a": {"backends": BACKENDS}, "b": {"aliases": ["bee"], "backends": BACKENDS}}, **more}
    path.write_text(yaml.safe_dump(content))
    return Catalogue.of(Source(path, {}))


def reread(catalogue: Catalogue) -> Changes:
    assert catalogue.source is not None
    return catalogue.exchange(*catalogue.source.read())


def test_models_come_change_and_go(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    catalogue, seen = write(path), []
    catalogue.follow(lambda: seen.append(sorted(catalogue.names)))
    write(path, models={"b": {"concurrency": 3, "backends": BACKENDS}, "c": {"backends": BACKENDS}})
    assert reread(catalogue) == Changes(added=("c",), changed=("b",), removed=("a",))
    assert seen == [["b", "c"]]
    assert catalogue.models["b"].concurrency == 3


def test_a_removed_model_has_no_name_and_is_still_known(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    catalogue = write(path)
    write(path, models={"a": {"backends": BACKENDS}})
    assert reread(catalogue).removed == ("b",)
    assert "bee" not in catalogue.names
    assert "b" not in catalogue.settings.models
    assert "b" in catalogue.models
    write(path)
    assert reread(catalogue).added == ("b",)
    assert catalogue.names["bee"] == "b"


def test_live_settings_are_in_force_and_others_only_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    catalogue = write(path, tenant_share=0.3)
    write(path, tenant_share=0.4, lanes={"flex": 5}, api={"port": 1234}, redis_url="redis://:canary@127.0.0.1/1")
    changes = reread(catalogue)
    assert changes == Changes(settings=("lanes", "tenant_share"), needs_restart=("redis_url", "api.port"))
    assert "canary" not in str(changes.told())
    assert (catalogue.settings.tenant_share, catalogue.settings.lanes.flex) == (0.4, 5)
    assert catalogue.settings.api.port != 1234
    assert catalogue.settings.redis_url is None
    assert reread(catalogue).needs_restart == ("redis_url", "api.port"), "it is named as long as it is so"


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    catalogue = write(path)
    before, digest = catalogue.settings, catalogue.digest
    path.write_text("models: {a: {backends: []}}")
    with pytest.raises(ConfigError):
        reread(catalogue)
    assert (catalogue.settings, catalogue.digest) == (before, digest)


def test_a_changed_key_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    catalogue = write(path)
    path.write_text(path.read_text().replace("canary-key", "canary-new"))
    assert reread(catalogue).changed == ("a", "b")


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    assert write(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
