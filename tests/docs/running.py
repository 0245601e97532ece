"""Runs a page's snippets in their order, as a reader would: one folder, one Python session, one shell environment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai

from aqueduct.cli import main
from tests.docs.conftest import OPERATOR
from tests.docs.snippets import RUN, SHELL, Snippet, Unrun, is_assignment, read
from tests.support.processes import ROOT
from tests.support.system import System

LONG_RUNNING = {"up", "api", "worker", "flower", "demo-backend"}
"""These run until they are ended, and tests of their own start them; here their options are looked at."""
NEED_CURL = {"curl", "celery"}
SOMEBODY = "team-a"
"""Whose token pages take for granted, if they do not make it."""
A_TOKEN = "sk-aq-..."
A_JOB = "req_0123…"
A_BATCH = "batch_0123…"
A_STREAM = "chatcmpl-0660e446439a0f1b74bd6f3f8f850501"
_CURL = 'curl() { command curl --silent --show-error --fail-with-body --max-time 60 "$@"; }\n'
LITELLM = "model_list:\n- model_name: fast\n  litellm_params: {model: openai/demo, api_base: 'BACKEND'}\n"
"""What readers who come from LiteLLM have in their folder."""
_LOOPBACK = "http://127.0.0.1:8000"


class Reader:
    """Somebody who works through one page at a running gateway."""

    def __init__(self, system: System, backend_url: str, folder: Path, unrun: Unrun) -> None:
        self._system, self._folder, self._unrun = system, folder, unrun
        self._token = system.tokens[OPERATOR]
        self._session: dict[str, Any] = {"TOKEN": self._token, "__name__": "__docs__"}
        self._open = contextlib.ExitStack()
        (folder / ".venv" / "bin").mkdir(parents=True)
        for name in ("python", "aqueduct", "celery"):
            (folder / ".venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
        (folder / "config.yaml").write_text(LITELLM.replace("BACKEND", backend_url))
        (folder / ".env.example").write_text((ROOT / ".env.example").read_text())

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that pages take for granted."""
        return {
            "AQUEDUCT_CONFIG": str(self._system.config_file),
            "AQUEDUCT_TOKEN": self._token,
            "AQUEDUCT_URL": self._system.base_url,
            "TOKEN": self._token,
            "OPENAI_API_KEY": self._token,
            "OPENAI_BASE_URL": f"{self._system.base_url}/v1",
            "NO_PROXY": "*",
        }

    def work_through(self, page: str, *, with_curl: bool) -> int:
        """Run the page's snippets; returns how many. With curl only those that need it, and what they lean on."""
        ran = 0
        text = (ROOT / page).read_text(encoding="utf-8")
        if SOMEBODY in text and f"create {SOMEBODY}" not in text:
            assert main(["token", "create", SOMEBODY]) == 0
            self._open.callback(self._revoke, SOMEBODY)
        for snippet in read(page, text):
            if snippet.language == "python" and self._unrun.of(snippet) is None:
                self._run_python(snippet)
            elif snippet.language in SHELL and self._unrun.reason(snippet) is None and snippet.programs <= RUN:
                if bool(snippet.programs & NEED_CURL) > with_curl:
                    continue
                self._run_shell(snippet)
            else:
                continue
            ran += 1
        return ran

    def heard(self, name: str) -> Any:
        """Return what the Python session holds."""
        return self._session[name]

    def _run_python(self, snippet: Snippet) -> None:
        code = compile("\n" * snippet.line + self._here(snippet.text), snippet.page, "exec")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(self._folder):
            exec(code, self._session)  # noqa: S102 - it is what a page tells people to run

    def _run_shell(self, snippet: Snippet) -> None:
        before: list[str] = []
        for command in snippet.commands:
            if is_assignment(command):
                before.append(self._here(command))
            elif command.startswith(("aqueduct ", ".venv/bin/aqueduct ")):
                self._run_aqueduct(shlex.split(self._here(command), comments=True)[1:], snippet)
            else:
                self._run_bash("\n".join([*before, self._here(command)]), snippet)

    def _run_aqueduct(self, words: list[str], snippet: Snippet) -> None:
        if words[0] in LONG_RUNNING:
            return
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.chdir(self._folder):
            status = main(words)
        if words[:2] == ["token", "create"]:
            self._open.callback(self._revoke, words[2])
        assert status == 0, f"{snippet.id}: aqueduct {' '.join(words)} ends with {status}:\n{said.getvalue()}"

    @staticmethod
    def _revoke(name: str) -> None:
        """Withdraw a token that a page has made, unless the page did: the next page may make one of that name."""
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            main(["token", "revoke", name])

    def _run_bash(self, script: str, snippet: Snippet) -> None:
        path = f"{self._folder}/.venv/bin:{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _CURL + script], cwd=self._folder, timeout=90, check=False,
            env={**os.environ, **self.environment, "PATH": path, "AQUEDUCT_REDIS_URL": self._system.redis_url},
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, f"{snippet.id}: {script}\n{ran.stdout}\n{ran.stderr}"

    def _here(self, text: str) -> str:
        """Return a snippet's text with this gateway's address, and requests that are there."""
        text = text.replace(_LOOPBACK, self._system.base_url).replace(A_TOKEN, self._token)
        if A_JOB in text:
            text = text.replace(A_JOB, self._open.enter_context(self._waiting_job()))
        if A_BATCH in text:
            text = text.replace(A_BATCH, self._open_batch())
        return text.replace(A_STREAM, self.stored_stream()) if A_STREAM in text else text

    @contextlib.contextmanager
    def _waiting_job(self) -> Iterator[str]:
        """Yield the id of a request that waits, as its model is held."""
        assert main(["model", "pause", "held"]) == 0
        body = {"model": "held", "stream": True, "messages": [{"role": "user", "content": "Wait"}]}
        with (
            self._system.client(self._token) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            yield answer.headers["x-request-id"]

    def _open_batch(self) -> str:
        """Return the id of a batch whose one line waits, as its model is held."""
        assert main(["model", "pause", "held"]) == 0
        body = {"model": "held", "messages": [{"role": "user", "content": "Wait"}]}
        line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
        with openai.OpenAI(base_url=f"{self._system.base_url}/v1", api_key=self._token) as client:
            file = client.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
            made = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        self._open.callback(self._cancel_batch, made.id)
        return made.id

    def _cancel_batch(self, batch: str) -> None:
        with self._system.client(self._token) as client:
            client.post(f"/v1/batches/{batch}/cancel")

    def stored_stream(self) -> str:
        """Return the id of a stream that was stored."""
        body = {"model": "demo", "stream": True, "store": True, "messages": [{"role": "user", "content": "Hello"}]}
        with self._system.client(self._token) as client:
            events = client.post("/v1/chat/completions", json=body).raise_for_status().text
            found = re.search(r'"id":"(chatcmpl-\w+)"', events)
            assert found
            deadline = time.monotonic() + 30
            while client.get(f"/v1/chat/completions/{found[1]}").status_code != httpx.codes.OK:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            return found[1]
