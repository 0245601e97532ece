"""The frame of `/ui`, without a browser: coming in, going out, and who is kept out."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import redis

from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

HOSTILE = "<b>a&b</b>"
MODELS = {"m": model("tokens=2"), HOSTILE: model("tokens=2")}
TOKENS = {"op": {"role": "operator"}, "look": {"role": "viewer"}, "user": {}}
PAGES = ("now", "jobs", "batches", "use", "playground", "tokens", "audit")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("ui")
    settings = {"api": {"trusted_proxies": ["127.0.0.1"]}, "storage": {"url": (folder / "store").as_uri()}}
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens=TOKENS, settings=settings,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def operator(system: System) -> Iterator[Visitor]:
    with Visitor(system, "op") as visitor:
        yield visitor


def assert_is_guarded(answer: httpx.Response) -> None:
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin" and answer.headers["cache-control"] == "no-store"


def test_whoever_has_no_session_is_led_to_the_login_and_back(system: System) -> None:
    with Visitor(system) as visitor:
        away = visitor.client.get("/ui/jobs?model=m")
        assert (away.status_code, away.headers["location"]) == (303, "/ui/login?next=/ui/jobs%3Fmodel%3Dm")
        page = visitor.client.get(away.headers["location"])
        assert 'value="/ui/jobs?model=m"' in page.text
        assert_is_guarded(page)
        back = visitor.login(system.tokens["look"], "/ui/jobs?model=m")
        assert (back.status_code, back.headers["location"]) == (303, "/ui/jobs?model=m")


def test_a_link_on_another_site_leads_to_the_page_of_whoever_is_logged_in(system: System, operator: Visitor) -> None:
    """The cookie is sent only from a page of ours on: so there is one between, once."""
    from_elsewhere = {"sec-fetch-site": "cross-site"}
    with Visitor(system) as nobody:
        first = nobody.client.get("/ui/jobs?model=m&state=waiting", headers=from_elsewhere)
        assert 'content="0; url=/ui/jobs?model=m&amp;state=waiting&amp;came=1"' in first.text
        assert nobody.client.get("/ui/now/live", headers=from_elsewhere).status_code == 401
        again = nobody.client.get("/ui/jobs?model=m&came=1", headers=from_elsewhere)
        assert again.headers["location"] == "/ui/login?next=/ui/jobs%3Fmodel%3Dm"
    assert operator.client.get("/ui/jobs?model=m&came=1").headers["location"] == "/ui/jobs?model=m"


def test_behind_a_proxy_that_speaks_https_the_cookie_is_kept_to_it(system: System) -> None:
    with Visitor(system) as visitor:
        # The proxy has changed Host, and the browser says by itself that the form is one of ours.
        proxied = {"x-forwarded-proto": "https", "host": "aqueduct", "sec-fetch-site": "same-origin"}
        answer = visitor.login(system.tokens["op"], headers={**proxied, "origin": "https://llm.example"})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-aqueduct_ui=") and "Secure" in cookie and "Domain" not in cookie
        given = {"cookie": cookie.partition(";")[0], **proxied}
        assert visitor.client.get("/ui/now", headers=given).status_code == 200
        assert visitor.client.get("/ui/now", headers={"cookie": given["cookie"]}).status_code == 303


@pytest.mark.parametrize("onward", ["https://evil.example/", "//evil.example", "/ui/\\evil", "/ui//evil", "/v1/models"])
def test_a_login_leads_nowhere_else(system: System, onward: str) -> None:
    with Visitor(system) as visitor:
        assert visitor.login(system.tokens["look"], onward).headers["location"] == "/ui/now"


def test_the_cookie_holds_no_token_and_no_script_or_other_site_gets_it(system: System) -> None:
    with Visitor(system) as visitor:
        answer = visitor.login(system.tokens["op"])
        cookie = answer.headers["set-cookie"]
        assert system.tokens["op"] not in cookie
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Secure" not in cookie
        (session_id,) = visitor.client.cookies.values()
        with redis.Redis.from_url(system.redis_url) as client:
            keys = list(client.scan_iter("aq2:session:*"))
            assert keys and session_id not in str(keys)
            for key in keys:
                assert 0 < client.ttl(key) <= 12 * 3600
                assert system.tokens["op"] not in str(client.get(key))


def test_a_wrong_token_and_one_that_may_not_look_are_told_so(system: System) -> None:
    with Visitor(system) as visitor:
        wrong = visitor.login("sk-nobody")
        assert wrong.status_code == 401 and "Incorrect API key" in wrong.text and "sk-nobody" not in wrong.text
        assert visitor.login(system.tokens["user"]).status_code == 403
        assert visitor.login("").status_code == 401
        assert visitor.login("a b").status_code == 401
        assert not visitor.client.cookies
        assert visitor.login("x" * 20_000).status_code == 413


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_whole_and_escapes_what_it_shows(operator: Visitor, page: str) -> None:
    answer = operator.client.get(f"/ui/{page}")
    assert answer.status_code == 200, answer.text
    assert_is_guarded(answer)
    assert HOSTILE not in answer.text
    assert (
        "style=" not in answer.text
        and "onclick" not in answer.text
        and "://" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace(operator.origin, "")
    )
    assert f'<a href="/ui/{page}" aria-current="page">' in answer.text


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "../../x", '"; a=b'])
def test_a_forged_cookie_is_none(system: System, cookie: str) -> None:
    with Visitor(system) as visitor:
        answer = visitor.client.get("/ui/now", headers={"cookie": f"aqueduct_ui={cookie}"})
        assert answer.status_code == 303
        live = visitor.client.get("/ui/now/live", headers={"cookie": f"aqueduct_ui={cookie}"})
        assert live.status_code == 401


def test_log_out_ends_the_session_itself(system: System, operator: Visitor) -> None:
    cookies = dict(operator.client.cookies)
    assert operator.post("/ui/logout").headers["location"] == "/ui/login"
    with Visitor(system) as other:
        other.client.cookies.update(cookies)
        other.get("/ui/now", 303)


def test_a_form_without_the_sessions_token_does_nothing(operator: Visitor) -> None:
    ours = {"origin": operator.origin}
    for fields in ({}, {"csrf": ""}, {"csrf": "é"}, {"csrf": "0" * 64}):
        assert operator.client.post("/ui/logout", data=fields, headers=ours).status_code == 403
        action = {"model": "m", "action": "resume", **fields}
        assert operator.client.post("/ui/now/model", data=action, headers=ours).status_code == 403
    operator.get("/ui/now")


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://["},
     {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"}],
)  # fmt: skip
def test_a_form_of_another_site_does_nothing(operator: Visitor, headers: dict[str, str]) -> None:
    csrf = operator.csrf
    assert operator.client.post("/ui/logout", data={"csrf": csrf}, headers=headers).status_code == 403
    foreign = {"origin": operator.origin, "host": "evil.example"}
    assert operator.client.post("/ui/logout", data={"csrf": csrf}, headers=foreign).status_code == 403
    operator.get("/ui/now")


def test_no_answer_repeats_the_host_that_was_asked_for(operator: Visitor) -> None:
    for path in ("/ui", "/ui/now", "/ui/login", "/ui/nowhere"):
        answer = operator.client.get(path, headers={"host": "evil.example"})
        assert "evil.example" not in answer.text + str(answer.headers)


def test_a_session_ends_with_its_token_and_with_its_role(system: System) -> None:
    with system.client(system.tokens["op"]) as client, Visitor(system) as gone, Visitor(system) as lower:
        for name, visitor in (("soon-gone", gone), ("soon-user", lower)):
            made = client.post("/admin/v1/tokens", json={"name": name, "role": "viewer"}).json()
            assert visitor.login(made["token"]).status_code == 303
            visitor.get("/ui/now")
        assert client.delete("/admin/v1/tokens/soon-gone").status_code == 200
        assert client.post("/admin/v1/tokens/soon-user", json={"role": "user"}).status_code == 200
        for visitor in (gone, lower):
            wait_until(lambda visitor=visitor: visitor.client.get("/ui/now").status_code == 303, 20)  # type: ignore[misc]
        # With its role back the token opens a new session; the old one stays ended.
        assert client.post("/admin/v1/tokens/soon-user", json={"role": "viewer"}).status_code == 200
        lower.get("/ui/now", 303)


def test_a_session_is_one_in_every_process_with_a_token_that_was_only_just_made(system: System) -> None:
    port = free_port()
    other = system.command("api", "--port", str(port), name="other-api").start()
    try:
        with Visitor(system) as visitor, system.client(system.tokens["op"]) as client:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as there:
                wait_until(lambda: "ready" in other.log(), 30)
                made = client.post("/admin/v1/tokens", json={"name": "just-made", "role": "viewer"}).json()
                assert visitor.login(made["token"]).status_code == 303
                there.cookies.update(visitor.client.cookies)
                assert there.get("/ui/now").status_code == 200
                csrf, ours = visitor.csrf, {"origin": f"http://127.0.0.1:{port}"}
                assert there.post("/ui/logout", data={"csrf": csrf}, headers=ours).status_code == 303
            visitor.get("/ui/now", 303)
    finally:
        other.stop()


def test_what_there_is_not_is_said_on_a_page(operator: Visitor) -> None:
    assert "<h1>Not found</h1>" in operator.get("/ui/nowhere", 404)
    operator.get("/ui/now/nothing", 404)
    operator.get("/ui/static/..%2fframe.py", 404)
    assert operator.client.put("/ui/now").status_code == 405
    assert operator.client.options("/ui/now").headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert operator.client.head("/ui/now").status_code == 200
    assert 'href="/ui"' in operator.client.get("/", headers={"accept": "text/html"}).text
    assert operator.client.get("/ui/login?next=<script>").text.count("<script") == 0


def test_files_are_kept_by_browsers_as_long_as_they_are_the_same(operator: Visitor) -> None:
    page = operator.get("/ui/now")
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = operator.client.get(address)
    assert answer.headers["content-type"].startswith("text/css") and "immutable" in answer.headers["cache-control"]
    assert operator.client.get("/ui/static/ui.css?v=old").headers["cache-control"] == "no-cache"
