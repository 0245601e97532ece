"""The JDK's own HTTP client, which most Java libraries stand on, against the running gateway (`tests/java`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.processes import ROOT
from tests.support.system import System

pytestmark = pytest.mark.full("java", "javac")

LARGE = "é" * 2_000_000


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, system: System) -> dict[str, str]:
    """Post a plain, a streamed and a large request with a counted and with a chunked body; return what came."""
    folder = tmp_path_factory.mktemp("java")
    bodies = {
        "plain": chat_body("short", "from java"),
        "stream": chat_body("short", "from java", stream=True),
        "large": chat_body("echo", LARGE),
        "large-stream": chat_body("echo", LARGE, stream=True),
    }
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", str(ROOT / "tests" / "java" / "Client.java")]
    command += [system.base_url + CHAT, system.token, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"{name}.json 200 HTTP_1_1" for name in bodies for _ in "12")
    return {path.stem: _text(path) for path in folder.glob("*.out")}


def _text(path: Path) -> str:
    """Return the answer's words, of one document or of a stream's chunks."""
    content = path.read_text(encoding="utf-8")
    if not content.startswith("data: "):
        whole: str = json.loads(content)["choices"][0]["message"]["content"]
        return whole
    *events, end, rest = content.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


@pytest.mark.parametrize("framing", ["counted", "chunked"])
@pytest.mark.parametrize("name", ["plain", "stream"])
def test_a_java_client_is_answered(answers: dict[str, str], name: str, framing: str) -> None:
    assert answers[f"{name}.{framing}"] == "0 1 2 "


@pytest.mark.parametrize("framing", ["counted", "chunked"])
@pytest.mark.parametrize("name", ["large", "large-stream"])
def test_a_java_clients_large_body_arrives_whole(answers: dict[str, str], name: str, framing: str) -> None:
    assert answers[f"{name}.{framing}"].startswith(f"{LARGE} ")
