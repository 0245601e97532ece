"""Use, Playground and Tokens without a browser: what they show is so, and what they do is done in the right name."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

MODELS = {"m": model("prefix=1&tokens=3"), "closed": model("tokens=2")}
TOKENS: dict[str, dict[str, Any]] = {
    "op": {"role": "operator", "group": "team-a", "requests_per_minute": 600, "tokens_per_day": 100_000},
    "look": {"role": "viewer", "models": []},
    "look-and-ask": {"role": "viewer", "models": ["m"]},
}


def last_month() -> tuple[date, int]:
    """Return its first day, and that day's first hour since 1970."""
    first = (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)
    return first, (first - date(1970, 1, 1)).days * 24


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("ui-pages")
    write_last_month(folder / "store")
    settings = {"storage": {"url": (folder / "store").as_uri()}, "groups": [{"name": "team-a"}]}
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS, tokens=TOKENS,
        settings=settings,
    ) as running:  # fmt: skip
        yield running


def write_last_month(store: Path) -> None:
    """Put into the file store what two tokens of team-a and one of nobody used on two days of last month."""
    first, hour = last_month()
    for back, field, requests, prompt, completion in (
        (0, "ada team-a m default chat.completions", 2, 1000, 200),
        (0, "bob team-a n default chat.completions", 3, 50, 7),
        (9, "ada team-a m batch chat.completions", 10, 90_000, 1),
        (9, "lone - m default chat.completions", 5, 4, 3),
    ):
        counts = [requests, 0, 0, 0, prompt, 0, completion, 0, 0, 0, 100, 1000, 2000]
        day = store / "usage" / (first + timedelta(days=back)).isoformat()
        day.mkdir(parents=True, exist_ok=True)
        (day / f"{field[:3]}.json").write_text(json.dumps({"hours": {str(hour + 24 * back + 5): {field: counts}}}))


@pytest.fixture
def operator(system: System) -> Iterator[Visitor]:
    with Visitor(system, "op") as visitor:
        yield visitor


def outcome_of_last(system: System) -> str:
    with system.client(system.tokens["op"]) as client:
        return str(client.get("/admin/v1/audit?limit=1").json()["data"][0]["outcome"])


def audited(system: System, count: int) -> list[tuple[str, str, str, str]]:
    with system.client(system.tokens["op"]) as client:
        rows = client.get(f"/admin/v1/audit?limit={count}").json()["data"]
    return [(row["by"], row["via"], row["action"], row["target"]) for row in rows]


# --- use --------------------------------------------------------------------------------------------------------------


def test_what_a_team_used_in_a_month_is_one_sentence_and_the_same_as_csv(operator: Visitor) -> None:
    first, _ = last_month()
    query = f"span={first:%Y-%m}&group=team-a&by=token"
    page = operator.get(f"/ui/use?{query}")
    answer = " ".join(re.sub("<[^>]+>", "", page.split('id="answer">')[1].split("</p>")[0]).split())
    assert answer == f"Group team-a, {first:%B %Y}: 91,258 tokens (91,050 in, 208 out), 15 requests, 6.0 s of slots."
    assert page.count('<rect class="series0"') - 1 == 2  # two days, and the legend
    rows = list(csv.DictReader(io.StringIO(operator.get(f"/ui/use/csv?{query}"))))
    assert [(row["day"], row["token"], row["requests"]) for row in rows] == [
        (f"{first}", "ada", "2"), (f"{first}", "bob", "3"), (f"{first + timedelta(days=9)}", "ada", "10"),
    ]  # fmt: skip
    assert sum(int(row["prompt_tokens"]) for row in rows) == 91_050
    hourly = operator.get(f"/ui/use?span=dates&from={first}&to={first}&per=hour&model=n")
    assert "57 tokens" in hourly and "05:00: 57 tokens" in hourly
    assert "Nothing was used." in operator.get(f"/ui/use?{query}&token=nobody")
    assert "12 tokens" not in operator.get(f"/ui/use?span={first:%Y-%m}&group=-")
    assert ">7 tokens" in operator.get(f"/ui/use?span={first:%Y-%m}&group=-").replace("\n", ">")


def test_what_is_wrong_stands_at_its_field(operator: Visitor) -> None:
    page = operator.get("/ui/use?span=dates&from=yesterday", 400)
    assert 'aria-describedby=" from-error"' in page and "Write a day as 2027-01-31." in page
    assert operator.client.get("/ui/use/csv?span=never").status_code == 400


# --- playground -------------------------------------------------------------------------------------------------------


def play(visitor: Visitor, body: Any, csrf: str | None = None, **headers: str) -> httpx.Response:
    given = {"origin": visitor.origin, "x-csrf-token": visitor.csrf if csrf is None else csrf, **headers}
    accept = {"accept": "text/event-stream, application/json"}
    return visitor.client.post("/ui/playground/send", json=body, headers=given | accept)


def used_by(system: System, name: str) -> int:
    with system.client(system.tokens["op"]) as client:
        query = {"start_time": str(int(time.time()) - 3600), "group_by": "api_key_id"}
        page = client.get("/v1/organization/usage/completions", params=query).json()
    rows = [row for bucket in page["data"] for row in bucket["results"] if row["api_key_id"] == name]
    return sum(row["num_model_requests"] for row in rows)


def test_the_playground_asks_in_the_name_of_the_sessions_token(system: System) -> None:
    with Visitor(system, "look-and-ask") as visitor:
        before = used_by(system, "look-and-ask")
        page = visitor.get("/ui/playground")
        assert '<option value="m" selected>' in page and "closed" not in page
        streamed = play(visitor, chat_body("m", "<b>hi</b>", stream=True))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert '"content":"<b>hi</b> "' in streamed.text and streamed.text.endswith("data: [DONE]\n\n")
        whole = play(visitor, chat_body("m"))
        assert whole.json()["choices"][0]["message"]["content"] == "hi 0 1 2 "
        assert used_by(system, "look-and-ask") == before + 2
        refused = play(visitor, chat_body("closed"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert play(visitor, {"model": "m"}).status_code == 400
        wait_until(lambda: "tenant=look-and-ask" in system.logs(), 10, "the requests' lines")


def test_headers_of_the_browser_ask_for_nothing(system: System, operator: Visitor) -> None:
    before = used_by(system, "look-and-ask"), used_by(system, "op")
    foreign = {"authorization": f"Bearer {system.tokens['look-and-ask']}", "idempotency-key": "same"}
    first, second = (play(operator, chat_body("m"), **foreign) for _ in range(2))
    assert first.json()["id"] != second.json()["id"]
    assert (used_by(system, "look-and-ask"), used_by(system, "op")) == (before[0], before[1] + 2)


def test_nobody_asks_without_a_session_and_its_form(system: System, operator: Visitor) -> None:
    before = used_by(system, "op")
    for csrf in ("", "0" * 64):
        assert play(operator, chat_body("m"), csrf=csrf).status_code == 403
    assert play(operator, chat_body("m"), origin="https://evil.example").status_code == 403
    with Visitor(system) as stranger:
        assert play(stranger, chat_body("m"), csrf="0" * 64).status_code == 401
    with Visitor(system, "look") as visitor:
        assert "may use no model" in visitor.get("/ui/playground")
        assert play(visitor, chat_body("m")).status_code == 404
    assert used_by(system, "op") == before


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_made_changed_and_revoked(system: System, operator: Visitor) -> None:
    fields = {"name": "carla", "role": "viewer", "models": "m", "tokens_per_minute": "5000", "weight": "2"}
    made = operator.post("/ui/tokens/create", {**fields, "group": "team-a", "expires_at": "2099-01-31T10:00"})
    assert made.status_code == 200 and made.headers["cache-control"] == "no-store"
    secret = re.findall(r"sk-aq-[\w-]{40}", made.text)
    assert len(secret) == 1
    with system.client(secret[0]) as client:
        assert client.post("/v1/chat/completions", json=chat_body("m")).status_code == 200
        assert client.get("/admin/v1/models").status_code == 200
    assert secret[0] not in operator.get("/ui/tokens")
    form = operator.get("/ui/tokens?edit=carla")
    for name, value in (("models", "m"), ("tokens_per_minute", "5000"), ("weight", "2.0")):
        assert re.search(f'name="{name}" type="[a-z]+" value="{value}"', form), name
    assert 'value="2099-01-31T10:00:00"' in form
    changed = operator.post("/ui/tokens/set", {"name": "carla", "role": "user", "models": "*", "weight": ""})
    assert (changed.status_code, changed.headers["location"]) == (303, "/ui/tokens")
    assert "carla is changed" in operator.get("/ui/tokens")
    assert outcome_of_last(system) == "expires_at, group, models, role, tokens_per_minute, weight"
    with system.client(system.tokens["op"]) as client:
        (told,) = [one for one in client.get("/admin/v1/tokens").json()["data"] if one["name"] == "carla"]
    wanted = {"role": "user", "models": ["*"], "tokens_per_minute": None, "group": None, "weight": 1.0}
    assert {name: told[name] for name in wanted} == wanted and told["expires_at"] is None
    asked = operator.post("/ui/tokens/revoke", {"name": "carla"})
    assert "Revoke carla?" in asked.text
    assert operator.post("/ui/tokens/revoke", {"name": "carla", "confirmed": "yes"}).status_code == 303
    with system.client(secret[0]) as client:
        wait_until(lambda: client.get("/v1/models").status_code == 401, 20, "the revoked token to be refused")
    assert audited(system, 3) == [
        ("op", "ui", f"token.{action}", "carla") for action in ("revoke", "set", "create")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": "a b", "role": "king", "requests_per_minute": "many"}, ["name", "requests_per_minute", "role"]),
        ({"name": ""}, ["name"]),
        ({"name": "op"}, ["name"]),
        ({"name": "x", "models": "m, nope"}, ["models"]),
        ({"name": "x", "group": "nope"}, ["group"]),
        ({"name": "x", "weight": "0", "lane": "fast", "expires_at": "soon"}, ["expires_at", "lane", "weight"]),
        ({"name": "x", "tokens_per_day": "-1", "max_stored_bytes": "1.5"}, ["max_stored_bytes", "tokens_per_day"]),
    ],
)
def test_each_wrong_field_is_told_beside_it_and_nothing_is_made(
    system: System, operator: Visitor, fields: dict[str, str], wrong: list[str]
) -> None:
    before = audited(system, 100)
    answer = operator.post("/ui/tokens/create", fields)
    assert answer.status_code == 400
    assert sorted(re.findall(r'class="error" id="new-(\w+)-error"', answer.text)) == wrong
    for name in wrong:
        assert re.search(f'name="{name}"[^>]* aria-invalid="true"', answer.text), name
    assert audited(system, 100) == before


def test_a_group_is_made_changed_and_deleted(system: System, operator: Visitor) -> None:
    wrong = operator.post("/ui/tokens/create-group", {"name": "team a", "models": "nope", "weight": "no"})
    assert wrong.status_code == 400
    assert sorted(re.findall(r'class="error" id="new-group-(\w+)-error"', wrong.text)) == ["name", "weight"]
    taken = operator.post("/ui/tokens/create-group", {"name": "team-a"})
    assert taken.status_code == 400 and "stands in the configuration file" in taken.text
    made = operator.post("/ui/tokens/create-group", {"name": "lab", "lane": "flex", "tokens_per_day": "900"})
    assert made.status_code == 303
    assert "0 of 900 tokens today" in operator.get("/ui/tokens")
    assert operator.post("/ui/tokens/create", {"name": "eve", "group": "lab"}).status_code == 200
    form = operator.get("/ui/tokens?edit_group=lab")
    assert re.search(r'name="tokens_per_day" type="number" value="900"', form)
    assert operator.post("/ui/tokens/set-group", {"name": "lab", "lane": "priority"}).status_code == 303
    assert outcome_of_last(system) == "lane, tokens_per_day"
    with system.client(system.tokens["op"]) as client:
        (told,) = [one for one in client.get("/admin/v1/groups").json()["data"] if one["name"] == "lab"]
    assert (told["lane"], told["tokens_per_day"], told["tokens"]) == ("priority", None, ["eve"])
    assert "Delete the group lab?" in operator.post("/ui/tokens/delete-group", {"name": "lab"}).text
    sure = {"name": "lab", "confirmed": "yes"}
    operator.post("/ui/tokens/delete-group", sure)
    assert "Tokens are in the group &#39;lab&#39;: eve" in operator.get("/ui/tokens")
    operator.post("/ui/tokens/revoke", {"name": "eve", "confirmed": "yes"})
    operator.post("/ui/tokens/delete-group", sure)
    assert "The group lab is deleted." in operator.get("/ui/tokens")
    actions = ["group.delete", "token.revoke", "group.set", "token.create", "group.create"]
    assert [(via, action) for _, via, action, _ in audited(system, 5)] == [("ui", action) for action in actions]


def test_use_is_shown_against_limits(system: System, operator: Visitor) -> None:
    def shown() -> list[str]:
        page = operator.get("/ui/tokens")
        return re.findall(r"</meter> ([\d,]+ of [\d,]+ [\w/ ]+)<", page.split(">op</a>")[1].split("</tr>")[0])

    (requests, tokens) = (int(text.split(" of ")[0].replace(",", "")) for text in shown())
    assert shown()[0].endswith("of 600 requests/min") and shown()[1].endswith("of 100,000 tokens today")
    with system.client(system.tokens["op"]) as client:
        usage = client.post("/v1/chat/completions", json=chat_body("m")).json()["usage"]["total_tokens"]
        left = client.post("/v1/chat/completions", json=chat_body("m")).headers["x-ratelimit-remaining-requests"]
    assert shown() == [f"{600 - int(left)} of 600 requests/min", f"{tokens + 2 * usage} of 100,000 tokens today"]
    assert 600 - int(left) <= requests + 2


def test_a_viewer_sees_tokens_and_changes_none(system: System) -> None:
    with Visitor(system, "look") as visitor:
        page = visitor.get("/ui/tokens")
        assert (
            "Create a token" not in page
            and "Create a group" not in page
            and "/ui/tokens/revoke" not in page
            and ">op</a>" in page
        )
        for action in ("create", "set", "revoke", "create-group", "set-group", "delete-group"):
            refused = visitor.post(f"/ui/tokens/{action}", {"name": "new", "confirmed": "yes"})
            assert refused.status_code == 403, action
        assert "needs a token with the role" in refused.text
