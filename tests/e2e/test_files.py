"""Files and uploads by OpenAI's own client, and everything that is refused of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import System

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def system(folder: Path, module_redis: RedisServer) -> Iterator[System]:
    with System(
        folder, redis_url=module_redis.url, backend_url="http://127.0.0.1:9/v1", models={"m": model()},
        tokens={"other": {}, "small": {"max_stored_bytes": 100_000}}, settings={"storage": {"url": f"file://{folder}/store"}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module", params=["", "/v1"])
def sdk(system: System, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = system.base_url + request.param
    with OpenAI(base_url=url, api_key=system.token, max_retries=0, timeout=20) as client:
        yield client


def test_a_file_goes_up_is_listed_read_and_deleted(sdk: OpenAI) -> None:
    made = sdk.files.create(file=("a b/ü.jsonl", LINE), purpose="batch")
    assert (made.filename, made.bytes, made.purpose, made.status) == ("ü.jsonl", len(LINE), "batch", "processed")
    assert made.expires_at == made.created_at + 30 * 86_400
    assert sdk.files.wait_for_processing(made.id, max_wait_seconds=5).id == made.id
    assert sdk.files.retrieve(made.id) == made
    assert sdk.files.content(made.id).read() == LINE
    assert made.id in [file.id for file in sdk.files.list(purpose="batch")]
    assert made.id not in [file.id for file in sdk.files.list(purpose="user_data")]
    assert sdk.files.delete(made.id).deleted
    for call in (sdk.files.retrieve, sdk.files.delete, sdk.files.content):
        with pytest.raises(openai.NotFoundError, match="No file found"):
            call(made.id)


def test_pages_go_on_where_the_last_one_ended(sdk: OpenAI) -> None:
    made = [sdk.files.create(file=(f"{n}.txt", b"x"), purpose="user_data").id for n in range(5)]
    assert [file.id for file in sdk.files.list(purpose="user_data", limit=2)][:5] == made[::-1]
    page = sdk.files.list(purpose="user_data", limit=2, order="asc", after=made[0])
    assert ([file.id for file in page.data], page.has_more) == (made[1:3], True)
    with pytest.raises(openai.NotFoundError, match="to list from"):
        sdk.files.list(after="file-no")
    for file_id in made:
        sdk.files.delete(file_id)


def test_a_large_file_passes_with_little_memory(system: System, sdk: OpenAI) -> None:
    block = os.urandom(1 << 20)
    size = 120

    class Endless(io.RawIOBase):
        left = size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if not self.left:
                return 0
            n = min(len(buffer), len(block))
            buffer[:n] = block[:n]
            self.left -= n == len(block)
            return n

    assert system.api is not None
    before = peak(system.api.pid)
    source = io.BufferedReader(Endless(), buffer_size=1 << 20)
    made = sdk.files.create(file=("big.bin", source), purpose="user_data")
    assert made.bytes >= size << 20
    digest = hashlib.sha256()
    with sdk.files.with_streaming_response.content(made.id) as answer:
        total = 0
        for piece in answer.iter_bytes():
            total += len(piece)
            digest.update(piece)
    assert total == made.bytes
    assert peak(system.api.pid) - before < 100 << 20
    sdk.files.delete(made.id)


def peak(pid: int) -> int:
    (line,) = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ("bytes=0-3", 206, b"0123"), ("bytes=8-", 206, b"89"), ("bytes=-3", 206, b"789"), ("bytes=5-99", 206, b"56789"),
        ("bytes=0-", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"), ("bytes=4-2", 200, b"0123456789"),
        ("bytes=0-" + "9" * 5000, 200, b"0123456789"),
        ("bytes=10-", 416, None), ("bytes=-0", 416, None),
    ],
)  # fmt: skip
def test_a_range_is_answered(system: System, sdk: OpenAI, wanted: str, status: int, told: bytes | None) -> None:
    made = sdk.files.create(file=("n", b"0123456789"), purpose="user_data")
    with system.client() as client:
        answer = client.get(f"/files/{made.id}/content", headers={"range": wanted})
    assert answer.status_code == status
    if told is None:
        assert (answer.headers["content-range"], answer.json()["error"]["code"]) == (
            "bytes */10", "range_not_satisfiable",
        )  # fmt: skip
    else:
        assert (answer.content, int(answer.headers["content-length"])) == (told, len(told))
    sdk.files.delete(made.id)


def test_another_tenants_file_is_not_there(system: System, sdk: OpenAI) -> None:
    made = sdk.files.create(file=("mine", b"x"), purpose="user_data")
    with OpenAI(base_url=system.base_url, api_key=system.tokens["other"], max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            other.files.delete(made.id)
        assert made.id not in [file.id for file in other.files.list()]
    sdk.files.delete(made.id)


@pytest.mark.parametrize(
    ("fields", "file", "param"),
    [
        ({}, ("f", b"x"), "purpose"), ({"purpose": "fine-tune"}, ("f", b"x"), "purpose"),
        ({"purpose": "batch_output"}, ("f", b"x"), "purpose"), ({"purpose": "batch"}, None, "file"),
        ({"purpose": "batch"}, ("", b"x"), "file"), ({"purpose": "batch"}, ("x" * 600, b"x"), "file"),
        ({"purpose": "batch", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, ("f", b""),
         "expires_after.anchor"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}, ("f", b""),
         "expires_after.seconds"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, ("f", b""),
         "expires_after.seconds"),
    ],
)  # fmt: skip
def test_a_form_at_fault_is_refused_by_name_and_leaves_nothing(
    system: System, folder: Path, fields: dict[str, str], file: tuple[str, bytes] | None, param: str
) -> None:
    before = stored(folder)
    files = {"file": file} if file else {"other": (None, "x")}
    with system.client() as client:
        answer = client.post("/v1/files", data=fields, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert stored(folder) == before


def stored(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "store").rglob("*") if path.is_file()}


def test_fields_may_come_behind_the_file(system: System) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\nhello\r\n'
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    )
    with system.client() as client:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = client.post("/v1/files", content=body, headers=headers)
        assert (answer.json()["bytes"], answer.json()["filename"]) == (5, "x.txt")
        cut = client.post("/v1/files", content=body[:-30], headers=headers)
        assert (cut.status_code, cut.json()["error"]["code"]) == (400, "invalid_form")
        wrong = client.post("/v1/files", json={"purpose": "batch"})
        assert wrong.status_code == 415
        client.delete(f"/files/{answer.json()['id']}")


def test_a_client_that_leaves_in_the_middle_leaves_nothing(system: System, folder: Path) -> None:
    before = stored(folder)
    with socket.create_connection(system.address) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + system.token.encode()
            + b"\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 50000000\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"y" * 10_000_000
        )  # fmt: skip
        time.sleep(0.3)
    deadline = time.monotonic() + 5
    while stored(folder) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stored(folder) == before


def test_an_upload_in_parts_becomes_a_file(sdk: OpenAI, folder: Path) -> None:
    parts = [os.urandom(3_000_000), os.urandom(10), b"end"]
    whole = b"".join(parts)
    upload = sdk.uploads.create(bytes=len(whole), filename="big.bin", mime_type="x/y", purpose="user_data")
    assert (upload.status, upload.expires_at - upload.created_at) == ("pending", 3600)
    ids = [sdk.uploads.parts.create(upload.id, data=part).id for part in reversed(parts)][::-1]
    md5 = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    with pytest.raises(openai.BadRequestError, match="another MD5"):
        sdk.uploads.complete(upload.id, part_ids=ids, md5="0" * 32)
    with pytest.raises(openai.BadRequestError, match="bytes in all"):
        sdk.uploads.complete(upload.id, part_ids=ids[:2])
    with pytest.raises(openai.BadRequestError, match="No part"):
        sdk.uploads.complete(upload.id, part_ids=[*ids[:2], "part_no"])
    done = sdk.uploads.complete(upload.id, part_ids=ids, md5=md5)
    assert done.status == "completed"
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == whole
    with pytest.raises(openai.ConflictError, match="completed"):
        sdk.uploads.parts.create(upload.id, data=b"x")
    assert not [path for path in stored(folder) if "/parts/" in path]
    sdk.files.delete(done.file.id)


def test_the_sdk_divides_a_file_by_itself(sdk: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(LINE * 30_000)
    done = sdk.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="batch", part_size=1 << 20)
    assert done.file is not None
    assert done.file.bytes == path.stat().st_size
    sdk.files.delete(done.file.id)


def test_an_upload_may_be_given_up(sdk: OpenAI) -> None:
    upload = sdk.uploads.create(bytes=3, filename="x", mime_type="x/y", purpose="user_data")
    part = sdk.uploads.parts.create(upload.id, data=b"abc")
    assert sdk.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="cancelled"):
        sdk.uploads.complete(upload.id, part_ids=[part.id])
    with pytest.raises(openai.NotFoundError):
        sdk.uploads.cancel("upload_no")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "bytes"), ({"bytes": 0, "filename": "x", "purpose": "batch"}, "bytes"),
        ({"bytes": True, "filename": "x", "purpose": "batch"}, "bytes"), ({"bytes": 1, "purpose": "batch"}, "filename"),
        ({"bytes": 1, "filename": "x"}, "purpose"), ({"bytes": 1, "filename": "x", "purpose": "vision"}, "purpose"),
        ({"bytes": 1, "filename": "x", "purpose": "batch", "expires_after": 5}, "expires_after"),
    ],
)  # fmt: skip
def test_an_upload_at_fault_is_refused_by_name(system: System, body: dict[str, Any], param: str) -> None:
    with system.client() as client:
        answer = client.post("/v1/uploads", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_part_over_its_limit_is_refused(system: System) -> None:
    with system.client() as client:
        made = client.post("/v1/uploads", json={"bytes": 5, "filename": "x", "mime_type": "x", "purpose": "batch"})
        big = client.post(f"/v1/uploads/{made.json()['id']}/parts", files={"data": ("d", b"x" * (65 << 20))})
    assert (big.status_code, big.json()["error"]["param"]) == (413, "data")


def test_without_a_token_nothing_is_taken(system: System) -> None:
    assert httpx.post(f"{system.base_url}/v1/files", files={"file": ("x", b"x")}).status_code == 401


def test_without_a_store_the_operator_is_named_the_setting(tmp_path: Path, module_redis: RedisServer) -> None:
    with System(
        tmp_path, redis_url=module_redis.url, backend_url="http://127.0.0.1:9", models={"m": model()}
    ) as bare, bare.client() as client:  # fmt: skip
        answer = client.get("/v1/files")
    assert answer.status_code == 404
    assert "storage.url" in answer.json()["error"]["message"]
    assert json.loads(answer.content)["error"]["code"] == "storage_not_set_up"


def test_a_token_stores_no_more_than_it_may(system: System, folder: Path) -> None:
    with OpenAI(base_url=system.base_url, api_key=system.tokens["small"], max_retries=0, timeout=20) as client:
        first = client.files.create(file=("a", b"x" * 60_000), purpose="user_data")
        before = stored(folder)
        with pytest.raises(openai.APIStatusError) as refused:
            client.files.create(file=("b", b"x" * 60_000), purpose="user_data")
        with pytest.raises(openai.APIStatusError):
            client.uploads.create(bytes=60_000, filename="c", purpose="user_data", mime_type="text/plain")
        assert stored(folder) == before
        upload = client.uploads.create(bytes=20_000, filename="c", purpose="user_data", mime_type="text/plain")
        client.uploads.parts.create(upload.id, data=b"x" * 20_000)
        with pytest.raises(openai.APIStatusError):
            client.uploads.parts.create(upload.id, data=b"x" * 30_000)  # parts count before they are a file
        client.files.delete(first.id)
        client.files.create(file=("d", b"x" * 60_000), purpose="user_data")
    error = refused.value.response.json()["error"]
    assert (refused.value.status_code, error["code"], error["param"]) == (413, "storage_limit_exceeded", "file")
    assert "may store 100000 bytes" in error["message"]


def test_a_full_disk_is_507_and_leaves_nothing(system: System, folder: Path) -> None:
    assert system.api is not None
    before, limits = stored(folder), resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        with system.client() as client:
            answer = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("f", b"x" * (20 << 20))})
    finally:
        resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE, limits)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (507, "storage_full", "service_unavailable_error")
    assert "full" in error["message"]
    assert stored(folder) == before


def test_a_store_that_is_away_is_503_and_works_again(system: System, folder: Path, sdk: OpenAI) -> None:
    (folder / "store").rename(folder / "away")
    (folder / "store").write_bytes(b"")
    try:
        with pytest.raises(openai.InternalServerError, match="file store") as refused:
            sdk.files.create(file=("f", b"x"), purpose="batch")
        assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
        assert refused.value.response.headers["retry-after"]
    finally:
        (folder / "store").unlink()
        (folder / "away").rename(folder / "store")
    assert sdk.files.delete(sdk.files.create(file=("f", b"x"), purpose="batch").id).deleted


def test_what_is_no_form_or_never_ends_is_refused(system: System) -> None:
    with system.client() as client:
        long = client.post(
            "/files", content=b"x", headers={"content-type": f"multipart/form-data; boundary={'b' * 999}"}
        )
        assert (long.status_code, long.json()["error"]["code"]) == (400, "invalid_form")
        whole = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
        upload = client.post(
            "/uploads", json={"bytes": 5, "filename": "x", "mime_type": "x", "purpose": "batch"}
        ).json()
        more = client.post(
            f"/uploads/{upload['id']}/parts", content=whole + b"y" * (66 << 20),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )  # fmt: skip
        assert (more.status_code, more.json()["error"]["code"]) == (413, "request_too_large")


def test_an_upload_ends_after_an_hour(system: System, folder: Path) -> None:
    with system.client() as client:
        made = client.post("/uploads", json={"bytes": 1, "filename": "x", "mime_type": "x", "purpose": "batch"}).json()
        (path,) = (folder / "store" / "uploads").glob(f"*/{made['id']}/record.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": made["created_at"] - 3601}))
        answer = client.post(f"/uploads/{made['id']}/parts", files={"data": ("d", b"x")})
    assert answer.status_code == 409
    assert "expired" in answer.json()["error"]["message"]


def test_a_bad_query_is_400_with_an_error_object_as_described(system: System) -> None:
    headers = {"authorization": f"Bearer {system.token}"}
    answer = httpx.get(f"{system.base_url}/v1/files", params={"limit": "many"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    document = httpx.get(f"{system.base_url}/openapi.json").json()
    assert "422" not in document["paths"]["/files"]["get"]["responses"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
