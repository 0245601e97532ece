"""What other users and processes of the machine could try: ports, files, environments; and the demo backend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.attack.scripts import KEY, SCRIPTS
from tests.attack.stack import LOGIN
from tests.attack.suite import CALM_SECONDS, Group, Suite
from tests.support.chat import CHAT, chat_body
from tests.support.processes import ROOT

LEVELS = 40
READY_ASKED = 500
COMMANDS_A_MODEL = 20
"""That a look and the stack's own work may come to, much below what each question would."""


def groups(suite: Suite) -> Iterator[Group]:
    """Yield what is tried on the machine itself."""
    found = Machine(suite)
    yield Group(
        "the machine",
        {
            "only the API and Flower listen": found.listeners,
            "nobody else can read the data": found.modes,
            "secrets are where they are needed": found.environments,
            "no secret on a command line": found.command_lines,
            "another user's data folder": found.foreign_folder,
            "a data folder that is a link": found.linked_folder,
        },
    )
    yield Group(
        "what is told without a token",
        {
            "readyz through a proxy": found.readyz_through_a_proxy,
            "readyz over and over": found.readyz_over_and_over,
            "pages name no model": found.pages,
            "hidden models": found.hidden_models,
        },
    )
    yield Group("the demo backend", {"an exponential schema": found.exponential_schema})


class Machine:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack = suite.stack

    def listeners(self) -> None:
        """Redis has a socket in a folder of its own; a stranger can take no port of ours and be told the password."""
        ports = {
            one.laddr[1] for process in self._stack.all for one in process.net_connections("all")
            if one.status == "LISTEN" and isinstance(one.laddr, tuple)
        }  # fmt: skip
        flower = httpx.URL(self._stack.flower_url).port
        assert ports == {self._stack.address[1], flower}, ports
        assert not [one for one in self._stack.redis.net_connections("inet") if one.status == "LISTEN"]

    def modes(self) -> None:
        """Everything kept is its owner's alone."""
        data = self._stack.folder / "data"
        for folder in (data, data / "redis", self._stack.folder / "store"):
            assert folder.stat().st_mode & 0o077 == 0, folder
        open_files = [
            path for path in data.rglob("*")
            if path.is_file() and path.parent == data and path.stat().st_mode & 0o077
        ]  # fmt: skip
        assert not open_files, open_files

    def environments(self) -> None:
        """A worker has its backends' keys, Flower its password, nobody else either."""
        for process in self._stack.all:
            variables = process.environ().values()
            line = " ".join(process.cmdline())
            has_key = any(KEY in value for value in variables)
            has_password = any(LOGIN[1] in value for value in variables)
            assert not has_key or "aqueduct worker" in line, line
            assert not has_password or "aqueduct flower" in line, line

    def command_lines(self) -> None:
        """Everybody on a machine can read those."""
        lines = " ".join(" ".join(process.cmdline()) for process in self._stack.all)
        for secret in (KEY, LOGIN[1], *self._stack.tokens.values()):
            assert secret not in lines
        assert "requirepass" not in lines and "redis://:" not in lines

    def foreign_folder(self) -> None:
        """What others could have written is not read: told in a line, with what to do."""
        folder = self._stack.folder / "foreign"
        folder.mkdir()
        (folder / "up.json").write_text(json.dumps({"token": "sk-aq-foreign", "flower_password": "foreign"}))
        folder.chmod(0o777)
        self._refused(folder)

    def linked_folder(self) -> None:
        """Nor what a link leads to, where the link is others'."""
        folder = self._stack.folder / "behind"
        folder.mkdir(mode=0o700)
        (folder / "up.json").write_text(json.dumps({"token": "sk-aq-foreign", "flower_password": "foreign"}))
        (folder / "up.json").chmod(0o666)
        self._refused(folder)

    def _refused(self, folder: Path) -> None:
        words = [sys.executable, "-m", "aqueduct", "up", "--data-dir", str(folder), "--port", "0"]
        run = subprocess.run(
            words, capture_output=True, text=True, timeout=20, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        shutil.rmtree(folder)
        assert run.returncode != 0
        assert "written by other users" in run.stderr and "Traceback" not in run.stderr, run.stderr
        assert "sk-aq-foreign" not in run.stdout + run.stderr

    def readyz_through_a_proxy(self) -> None:
        """Whoever a proxy speaks for is told a number."""
        for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via"):
            answer = httpx.get(f"{self._stack.base_url}/readyz", headers={header: "203.0.113.9"}, timeout=10)
            assert "good" not in answer.text and "torrent" not in answer.text, answer.text

    def readyz_over_and_over(self) -> None:
        """Redis is not asked each time."""
        # One look at each model each quarter of a second and process, beside what runs anyway.
        with httpx.Client(base_url=self._stack.base_url, timeout=10) as asking, self._stack.redis_client() as client:
            before, began = client.info("stats")["total_commands_processed"], time.monotonic()
            for _ in range(READY_ASKED):
                assert asking.get("/readyz").status_code == 200
            took = time.monotonic() - began
            asked = client.info("stats")["total_commands_processed"] - before
        looks = 1 + took / 0.25
        assert asked < looks * len(SCRIPTS) * COMMANDS_A_MODEL, f"{asked} commands in {took:.1f} s"

    def pages(self) -> None:
        """What is open is the same for everybody."""
        for path in ("/", "/docs", "/redoc", "/openapi.json", "/healthz", "/v1"):
            answer = httpx.get(self._stack.base_url + path, timeout=10, follow_redirects=True)
            assert "unserved-secret" not in answer.text and "torrent" not in answer.text, path

    def hidden_models(self) -> None:
        """A model that the token may not use is as one that is not there."""
        with self._stack.client("narrow") as client:
            assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["good"]
            hidden = client.post(CHAT, json=chat_body("slow")).json()["error"]
            missing = client.post(CHAT, json=chat_body("nowhere")).json()["error"]
            assert client.get("/v1/models/slow").status_code == 404
        assert str(hidden).replace("slow", "X") == str(missing).replace("nowhere", "X")

    def exponential_schema(self) -> None:
        """Refused or answered soon, and nobody waits behind it."""
        definitions: dict[str, Any] = {
            f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}, {"$ref": f"#/$defs/d{level + 1}"}]}
            for level in range(LEVELS)
        }
        definitions[f"d{LEVELS}"] = {"type": "object"}
        schema = {"$ref": "#/$defs/d0", "$defs": definitions}
        body = {
            **chat_body("good"),
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        }
        began = time.monotonic()
        with self._stack.client() as client:
            answer = client.post(CHAT, json=body)
        assert answer.status_code in (200, 400), answer.text[:300]
        assert time.monotonic() - began < CALM_SECONDS
