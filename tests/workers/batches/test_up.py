"""The whole way over HTTP: a file, a batch, its end, its output; with the OpenAI SDK's own calls."""

from __future__ import annotations

import orjson
from openai import OpenAI

from shared.batches.record import Status
from tests.support.batch_site import Site
from tests.support.batches import chat_line
from tests.support.waiting import wait_until


def test_a_batch_of_the_sdk_is_carried_to_its_end(site: Site) -> None:
    site.system.start()
    lines = b"".join(orjson.dumps(chat_line(f"line-{n}", f"text {n}")) + b"\n" for n in range(20))
    with OpenAI(base_url=f"{site.system.base_url}/v1", api_key=site.system.token) as client:
        file = client.files.create(file=("lines.jsonl", lines), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
        )
        wait_until(lambda: client.batches.retrieve(batch.id).status == Status.COMPLETED, 20, "the batch to complete")
        ended = client.batches.retrieve(batch.id)
        assert ended.output_file_id is not None
        output = [orjson.loads(line) for line in client.files.content(ended.output_file_id).read().splitlines()]
    assert sorted(line["custom_id"] for line in output) == sorted(f"line-{n}" for n in range(20))
