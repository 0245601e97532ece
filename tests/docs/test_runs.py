"""Pages are worked through at a real gateway, snippet for snippet."""

from __future__ import annotations

import base64
import hmac
import time
from pathlib import Path

import openai
import pytest

from tests.docs.conftest import OPERATOR
from tests.docs.running import NEED_CURL, Reader
from tests.docs.snippets import PAGES, SHELL, read, unrun
from tests.support.processes import ROOT
from tests.support.system import DemoBackend, System

UNRUN = unrun()


def pages(*, with_curl: bool) -> list[str]:
    """Return the pages with something to run."""
    return [page for page in PAGES if _has_to_run(page, with_curl=with_curl)]


def _has_to_run(page: str, *, with_curl: bool) -> bool:
    run = [one for one in read(page, (ROOT / page).read_text()) if UNRUN.reason(one) is None]
    shell = [one for one in run if one.language in SHELL and bool(one.programs & NEED_CURL) == with_curl]
    return bool(shell) or (not with_curl and any(one.language == "python" for one in run))


@pytest.fixture
def reader(gateway: System, demo_backend: DemoBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader(gateway, demo_backend.url, tmp_path, UNRUN)
    for name, value in reader.environment.items():
        monkeypatch.setenv(name, value)
    return reader


@pytest.mark.parametrize("page", pages(with_curl=False))
def test_the_python_and_the_commands_of_a_page_run(reader: Reader, page: str) -> None:
    with reader:
        assert reader.work_through(page, with_curl=False)


def test_the_receiver_of_a_batchs_end_takes_what_is_signed_and_nothing_else(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = base64.b64encode(b"k" * 32)
    monkeypatch.setenv("TEAM_A_WEBHOOK_SECRET", f"whsec_{key.decode()}")
    body = '{"id":"evt_1","object":"event","type":"batch.completed","created_at":1,"data":{"id":"batch_1"}}'
    now = int(time.time())
    signed = hmac.digest(b"k" * 32, f"wh_1.{now}.{body}".encode(), "sha256")
    headers = {"webhook-id": "wh_1", "webhook-timestamp": str(now)}
    with reader:
        reader.work_through("docs/how-to/run-batches.md", with_curl=False)
        receive = reader.heard("receive")
    good = {**headers, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}
    assert receive(body, good) == ("batch.completed", "batch_1")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        receive(body.replace("batch_1", "batch_2"), good)


def test_the_loop_that_loses_nothing_reads_a_stored_stream_to_its_end(reader: Reader, gateway: System) -> None:
    with reader:
        reader.work_through("docs/how-to/leave-and-come-back.md", with_curl=False)
        text = "".join(reader.heard("text_of")(gateway.base_url, gateway.tokens[OPERATOR], reader.stored_stream()))
    assert text.startswith("You said: Hello")


@pytest.mark.full("curl")
@pytest.mark.parametrize("page", pages(with_curl=True))
def test_the_shell_of_a_page_runs(reader: Reader, page: str) -> None:
    with reader:
        assert reader.work_through(page, with_curl=True)
