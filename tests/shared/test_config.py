"""The configuration: what is read from where, and how every mistake is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.broker import event_topic
from shared.config import config_path, describe_settings, load_settings
from shared.config_problems import ConfigError
from shared.redis_url import certificate_check, parse_sentinel_url, redis_url_problem, shown_url
from shared.settings import ModelSettings

GOOD = """\
models:
  llama:
    aliases: [fast]
    backends:
      - url: http://127.0.0.1:9000/v1
        api_key: ${BACKEND_KEY}
"""
KEY = {"BACKEND_KEY": "sk-canary-key"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("aqueduct.yaml").write_text(text, encoding="utf-8")
        return Path("aqueduct.yaml")

    return write


def told(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ=KEY if environ is None else environ)
    return str(caught.value).splitlines()


def test_a_file_is_read_and_its_variables_are_filled(write: Write) -> None:
    settings = load_settings(write(GOOD), environ=KEY)
    key = settings.models["llama"].backends[0].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-canary-key"
    assert settings.public_names() == {"llama": "llama", "fast": "llama"}


def test_aqueduct_config_names_the_file(write: Write) -> None:
    environ = KEY | {"AQUEDUCT_CONFIG": str(write(GOOD))}
    assert "llama" in load_settings(None, environ=environ).models
    assert config_path(Path("other"), environ) == Path("other")


def test_the_environment_wins_over_the_file(write: Write) -> None:
    path = write(GOOD + "api: {port: 8001, host: 0.0.0.0}\n")
    environ = KEY | {
        "AQUEDUCT_API__PORT": "9001",
        "AQUEDUCT_REDIS_URL": "redis://localhost/1",
        "AQUEDUCT_API__CORS_ORIGINS": "http://a, http://b",
        "AQUEDUCT_API__TRUSTED_PROXIES": '["10.0.0.1"]',
        "AQUEDUCT_TESTING__DROP_LIVE_EVENTS": "true",
        "AQUEDUCT_LOG_FORMAT": "",
    }
    settings = load_settings(path, environ=environ)
    assert (settings.api.port, settings.api.host) == (9001, "0.0.0.0")
    assert settings.redis == "redis://localhost/1"
    assert settings.api.cors_origins == ("http://a", "http://b")
    assert settings.api.trusted_proxies == ("10.0.0.1",)
    assert settings.testing.drop_live_events is True
    assert settings.log_format == "text"


def test_without_a_file_base_gives_the_models_and_stays_unchanged() -> None:
    base = {"models": {"demo": {"backends": [{"url": "http://127.0.0.1:1/v1"}]}}, "api": {"port": 1}}
    assert load_settings(None, environ={"AQUEDUCT_API__PORT": "2"}, base=base).api.port == 2
    assert base["api"] == {"port": 1}
    assert told(None, {}) == [
        "models: at least one model is needed; name a configuration file by --config or AQUEDUCT_CONFIG"
    ]


def test_backend_keys_are_left_out_where_they_are_not_needed(write: Write) -> None:
    settings = load_settings(write(GOOD), environ={}, resolve_backend_keys=False)
    assert settings.models["llama"].backends[0].api_key is None


def test_backend_keys_may_be_asked_for_some_models_alone(write: Write) -> None:
    path = write(GOOD + "  other: {backends: [{url: 'http://h/v1', api_key: '${NOT_SET}'}]}\n")
    settings = load_settings(path, environ=KEY, resolve_backend_keys=["llama"])
    assert settings.models["llama"].backends[0].api_key is not None
    assert settings.models["other"].backends[0].api_key is None
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        load_settings(path, environ=KEY, resolve_backend_keys=["llama", "other"])


def test_flowers_password_is_left_out_where_it_is_not_needed(write: Write) -> None:
    path = write(GOOD + "flower: {password: '${NOT_SET}'}\n")
    assert load_settings(path, environ=KEY, resolve_flower_password=False).flower.password is None
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        load_settings(path, environ=KEY)


TOKEN = f"tokens: [{{name: x, sha256: {'ab' * 32}, webhook: {{url: 'https://h/a?b=c', secret: '%s'}}}}]\n"


def test_a_webhooks_secret_is_left_out_where_it_is_not_needed(write: Write) -> None:
    path = write(GOOD + TOKEN % "${NOT_SET}")
    webhook = load_settings(path, environ=KEY, resolve_webhook_secrets=False).tokens[0].webhook
    assert webhook is not None
    assert (webhook.url, webhook.key()) == ("https://h/a?b=c", None)
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        load_settings(path, environ=KEY)


@pytest.mark.parametrize("secret", ["", "hunter2hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_?" + "a" * 40, "whsec_é"])
def test_a_webhooks_secret_at_fault_is_told_and_not_shown(write: Write, secret: str) -> None:
    (problem,) = told(write(GOOD + TOKEN % secret))
    assert problem.startswith("aqueduct.yaml:7: tokens[0].webhook.secret: must be whsec_ and base64")
    assert "openssl rand -base64 32" in problem
    assert len(secret) < 7 or secret not in problem


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://", "https://h:x/", "https://h/#a", "http://h:0/", "/hooks", "http://a b/"]
)
def test_a_webhooks_url_at_fault_is_told(write: Write, url: str) -> None:
    (problem,) = told(write(GOOD + (TOKEN % ("whsec_" + "a" * 44)).replace("https://h/a?b=c", url)))
    assert problem.startswith("aqueduct.yaml:7: tokens[0].webhook.url: must ")


def test_a_missing_variable_is_told_with_its_line(write: Write) -> None:
    line = "aqueduct.yaml:6: models.llama.backends[0].api_key: the environment variable BACKEND_KEY is {}"
    assert told(write(GOOD), {}) == [line.format("not set")]
    assert told(write(GOOD), {"BACKEND_KEY": ""}) == [line.format("empty")]


def test_defaults_and_escapes_of_variables(write: Write) -> None:
    path = write(GOOD + "flower: {user: 'a$${b}', password: '${NONE:-}'}\napi: {port: '${PORT:-8123}'}\n")
    settings = load_settings(path, environ=KEY)
    assert (settings.flower.user, settings.flower.password, settings.api.port) == ("a${b}", None, 8123)
    assert load_settings(path, environ=KEY | {"PORT": "1"}).api.port == 1
    assert "write $${" in told(write(GOOD + "flower: {user: 'a${b'}\n"))[0]


def test_every_problem_is_told_at_once_with_line_and_reason(write: Write) -> None:
    path = write(
        """\
models:
  llama:
    concurrency: 0
    max_que: 3
    max_queue: off
    backends:
      - url: ftp://x
      - {modle: x}
  other:
    batch_reserve: 40
    timeout_seconds: .inf
    extra_parameters: allowed
    backends: []
api: {port: eighty}
log_level:
"""
    )
    assert told(path, {"AQUEDUCT_WORKER__SLOTS": "0", "AQUEDUCT_API__PROT": "1", "AQUEDUCT_TOKENS": "x"}) == [
        "aqueduct.yaml:3: models.llama.concurrency: must be at least 1 (is 0)",
        "aqueduct.yaml:4: models.llama.max_que: is not a setting; did you mean 'max_queue'?",
        "aqueduct.yaml:5: models.llama.max_queue: must not be true or false "
        "(YAML reads yes, no, on and off as these); use quotes for text",
        "aqueduct.yaml:7: models.llama.backends[0].url: "
        "must be an http:// or https:// URL such as http://127.0.0.1:9000/v1",
        "aqueduct.yaml:8: models.llama.backends[1].url: is required",
        "aqueduct.yaml:8: models.llama.backends[1].modle: is not a setting; did you mean 'model'?",
        "aqueduct.yaml:10: models.other.batch_reserve: "
        "must be smaller than concurrency, or batch work never runs (is 40)",
        "aqueduct.yaml:11: models.other.timeout_seconds: must be a finite number (is inf)",
        "aqueduct.yaml:12: models.other.extra_parameters: "
        "must be 'allow', 'drop' or 'refuse' (is 'allowed'); did you mean 'allow'?",
        "aqueduct.yaml:13: models.other.backends: needs at least 1 entry",
        "aqueduct.yaml:14: api.port: must be a whole number (is 'eighty')",
        "aqueduct.yaml:15: log_level: has no value; give one or remove the line",
        "AQUEDUCT_API__PROT: is not a setting; did you mean 'AQUEDUCT_API__PORT'?",
        "AQUEDUCT_TOKENS: tokens can be given only in the configuration file",
        "AQUEDUCT_WORKER__SLOTS: must be at least 1 (is '0')",
    ]


@pytest.mark.parametrize(
    ("url", "topic"),
    [
        ("redis://h", "/0.celeryev/task.multi"),
        ("rediss://u:p@h:6380/1", "/1.celeryev/task.multi"),
        ("unix:///run/r.sock?db=2", "/2.celeryev/task.multi"),
        ("sentinel://:p@a:1,b/mymaster/3", "/3.celeryev/task.multi"),
    ],
)
def test_job_events_go_where_flower_listens(url: str, topic: str) -> None:
    assert event_topic(url) == topic


@pytest.mark.parametrize(
    "url", ["http://h/v1 ", "http://h/a b", "http://h:99999/v1", "http://h:x/v1", "http://[::1/v1", "http://:9/v1"]
)
def test_a_backend_url_that_could_not_be_called_is_refused(write: Write, url: str) -> None:
    lines = told(write(f"models: {{m: {{backends: [{{url: '{url}'}}]}}}}\n"))
    assert len(lines) == 1
    assert "backends[0].url: must be an http:// or https:// URL" in lines[0]


@pytest.mark.parametrize("url", ["http://h/v1?api-version=1", "http://h/v1#x"])
def test_a_backend_url_has_nothing_behind_its_path(write: Write, url: str) -> None:
    assert "must have no `?` and no `#`" in told(write(f"models: {{m: {{backends: [{{url: '{url}'}}]}}}}\n"))[0]


def test_a_backends_key_loses_the_line_end_of_the_file_it_came_from(write: Write) -> None:
    path = write("models: {m: {backends: [{url: 'http://h/v1', api_key: '${LLAMA_KEY}'}]}}\n")
    key = load_settings(path, environ={"LLAMA_KEY": "canary\n"}).models["m"].backends[0].api_key
    assert key is not None
    assert key.get_secret_value() == "canary"
    lines = told(path, {"LLAMA_KEY": "canary\nx-evil: 1"})
    assert "api_key: must be one line of ASCII text" in lines[0]
    assert "canary" not in lines[0]


def test_names_that_clash_are_told_with_both_lines(write: Write) -> None:
    tokens = "".join(f"  - {{name: team, sha256: {'ab' * 32}}}\n" for _ in range(2))
    lines = told(write(GOOD + "  fast: {backends: [{url: 'http://h/v1'}]}\n" + f"tokens:\n{tokens}"))
    assert lines == [
        "aqueduct.yaml:3: models.llama.aliases[0]: the name 'fast' is already used on line 7",
        "aqueduct.yaml:10: tokens[1].name: the name 'team' is already used by another token on line 9",
        "aqueduct.yaml:10: tokens[1].sha256: this sha256 is already used by another token on line 9",
    ]


def test_a_token_names_a_group_that_there_is_and_groups_names_stand_once(write: Write) -> None:
    token = f"tokens: [{{name: a, sha256: {'ab' * 32}, group: %s}}]\n"
    groups = "groups:\n  - {name: team, weight: 3, models: [fast], lane: default}\n"
    settings = load_settings(write(GOOD + groups + token % "team"), environ=KEY)
    assert (settings.tokens[0].group, settings.groups[0].weight) == ("team", 3)
    assert told(write(GOOD + groups + "  - {name: team}\n" + token % "taem")) == [
        "aqueduct.yaml:9: groups[1].name: the name 'team' is already used by another group on line 8",
        "aqueduct.yaml:10: tokens[0].group: no group is called 'taem'; did you mean 'team'?; add it to `groups`",
    ]
    assert told(write(GOOD + token % "team")) == [
        "aqueduct.yaml:7: tokens[0].group: no group is called 'team'; add it to `groups`"
    ]


@pytest.mark.parametrize(("weight", "is_usable"), [("1.0e-308", False), ("0.0009", False), ("0.001", True)])
def test_a_tokens_weight_is_no_smaller_than_a_thousandth(write: Write, weight: str, is_usable: bool) -> None:
    path = write(GOOD + f"tokens: [{{name: team, sha256: {'ab' * 32}, weight: {weight}}}]\n")
    if is_usable:
        assert load_settings(path, environ=KEY).tokens[0].weight == float(weight)
    else:
        assert told(path) == [f"aqueduct.yaml:7: tokens[0].weight: must be at least 0.001 (is {float(weight)})"]


def test_bytes_that_may_wait_are_bounded_without_a_setting(write: Write) -> None:
    assert load_settings(write(GOOD), environ=KEY).models["llama"].max_queue_bytes == 1024**3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {}\nmodels: {}\n", "aqueduct.yaml:2: models: stands twice, first on line 1"),
        ("flower: {password: !secret-canary x}\n", "aqueduct.yaml:1: flower.password: has a tag"),
        ("models: &a [*a]\n", "aqueduct.yaml:1: models[0]: contains itself by an alias"),
        ("models: {1: {}}\n", "aqueduct.yaml:1: models: has a key that is not text"),
    ],
)
def test_a_value_that_cannot_be_read_says_where(write: Write, text: str, said: str) -> None:
    lines = told(write(text))
    assert any(said in line for line in lines), lines
    assert "secret-canary" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"models:\n\tllama: {}\n", ":2: a tab stands where YAML wants spaces; indent with spaces"),
        (b"models: {}\nmodels: {}\nflower: [a\n", ":4: is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (b"\n- a\n", ":2: must hold settings, one `key: value` a line"),
        (b"models: {}\nflower: {password: *secret-canary }\n", ":2: an alias (*name) without its anchor"),
        (b"models: {}\n--- # secret-canary\nmodels: {}\n", ":2: must be one document; remove the line ---"),
        (b"models: {}\n# secret-canary \xff\n", ":2: is not UTF-8 text"),
        (b"models: {}\n# secret-canary \x01\n", ":2: holds a control character (U+0001); remove it"),
        (b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [%b]\n" % (n, n, b",".join([b"*%c" % o] * 10)) for o, n in zip(b"abcdef", b"bcdefg", strict=True)
        ), "unfolds to too many values"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_yaml_is_told_in_one_line(write: Write, content: bytes, said: str) -> None:
    path = write("")
    path.write_bytes(content)
    (line,) = told(path)
    assert said in line
    assert "secret-canary" not in line


def test_anchors_and_merge_keys_work(write: Write) -> None:
    text = "models:\n  a: &a {concurrency: 3, backends: [{url: 'http://h/v1'}]}\n  b: {<<: *a, concurrency: 4}\n"
    models = load_settings(write(text), environ={}).models
    assert [models[name].concurrency for name in "ab"] == [3, 4]


def test_a_missing_file_is_told() -> None:
    assert told(Path("no-such.yaml")) == ["no-such.yaml: cannot be read: No such file or directory"]


def test_no_message_shows_a_secret(write: Write) -> None:
    path = write(
        """\
models:
  a: {backends: [{url: 'htp://u:canary@h', api_key: [canary]}], concurrency: "${N}"}
tokens: [{name: x, sha256: canary}]
redis_url: http://:canary@h
flower: {password: {canary: canary}, passwort: canary}
"""
    )
    lines = told(path, {"N": "canary", "AQUEDUCT_API__PROT": "canary"})
    assert len(lines) == 8, lines
    assert "canary" not in "\n".join(lines)


def test_variables_that_kubernetes_sets_are_not_ours(write: Write) -> None:
    environ = KEY | {
        "AQUEDUCT_PORT": "tcp://10.0.0.1:80",
        "AQUEDUCT_PORT_80_TCP_ADDR": "10.0.0.1",
        "AQUEDUCT_API_SERVICE_HOST": "10.0.0.1",
    }
    load_settings(write(GOOD), environ=environ)
    assert told(write(GOOD), KEY | {"AQUEDUCT_API_PORT": "80"})[0].startswith("AQUEDUCT_API_PORT: is not a setting")


@pytest.mark.parametrize(
    "url",
    ["redis://h/0", "rediss://u:p%40@h:6380/1", "unix:///run/r.sock?db=1", "sentinel://:p@a:1,b/mymaster/0"],
)
def test_usable_redis_urls(url: str) -> None:
    assert redis_url_problem(url) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+cluster://h", "no cluster transport"),
        ("rediscluster://h", "no cluster transport"),
        ("redis://h/0?cluster=true", "no cluster transport"),
        ("redis://a:1,b:2/0", "several hosts"),
        ("http://h", "must begin with redis://"),
        ("localhost", "must be a URL"),
        ("redis://h/name", "number of the database"),
        ("redis://:canary@h:port/0", "not a usable URL"),
        ("sentinel://a:1", "master's name"),
        ("unix://", "socket's path"),
    ],
)
def test_unusable_redis_urls_say_why(url: str, said: str) -> None:
    problem = redis_url_problem(url)
    assert problem is not None
    assert said in problem
    assert "canary" not in problem


def test_the_parts_of_redis_urls() -> None:
    assert redis_url_problem("sentinel://u:p%2F@a:1,[::1]/mymaster/3") is None
    assert shown_url("sentinel://u:p%2F@a:1,[::1]/mymaster/3?sentinel_password=s") == "sentinel://a:1,[::1]/mymaster/3"
    assert shown_url("redis://u:p%2F@a:1/3?x=s") == "redis://a:1/3"
    parts = parse_sentinel_url("sentinel://u:p%2F@a:1,[::1]/mymaster/3?sentinel_password=s")
    assert parts.hosts == (("a", 1), ("::1", 26379))
    assert (parts.master_name, parts.db, parts.username, parts.password) == ("mymaster", 3, "u", "p/")
    assert parts.sentinel_password == "s"
    assert certificate_check("rediss://h") == "required"
    assert certificate_check("rediss://h?ssl_cert_reqs=CERT_NONE") == "none"


def test_every_setting_is_described_with_its_variable() -> None:
    rows = {row.name: row for row in describe_settings()}
    assert rows["api.port"].variable == "AQUEDUCT_API__PORT"
    assert (rows["api.port"].type, rows["api.port"].default) == ("whole number", "8000")
    assert rows["models.NAME.backends[].url"].default == "required"
    assert rows["tokens[].lane"].variable == ""


def test_a_model_has_no_more_places_than_its_backends_take() -> None:
    def places(*caps: int | None) -> int:
        backends = [{"url": "http://127.0.0.1:1/v1", "concurrency": cap} for cap in caps]
        return ModelSettings.model_validate({"concurrency": 32, "backends": backends}).places

    assert [places(None), places(8), places(8, 4), places(40), places(8, None)] == [32, 8, 12, 32, 32]


@pytest.mark.parametrize("name", ["AQUEDUCT_TOKEN", "AQUEDUCT_URL", "AQUEDUCT_MODEL"])
def test_variables_that_commands_and_hooks_use_are_no_wrong_settings(write: Write, name: str) -> None:
    load_settings(write(GOOD), environ=KEY | {name: "x"})
