"""Whether a process is traced, and what a job's spec says of it: nothing at all, where it is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared.jobs import JobSpec
from shared.tracing.switch import exporters_wanted
from tests.support.processes import ROOT

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, ()),
        (ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ("otlp", "console")),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "console"}, ("console",)),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, ("otlp",)),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ("console",)),
    ],
)
def test_the_standard_variables_switch_it_on_and_off(variables: dict[str, str], wanted: tuple[str, ...]) -> None:
    assert exporters_wanted(variables) == wanted


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "set it to otlp, console or none"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTLP by http/json is not to be had here"),
    ],
)
def test_what_is_not_to_be_had_is_named_with_the_fix(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exporters_wanted(variables)


def _python(code: str, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    return done.stdout + done.stderr


def test_without_the_variables_nothing_of_it_is_imported() -> None:
    seen = _python(
        "import sys, api.server, workers.app\n"
        "from shared.tracing.switch import open_tracing\n"
        "assert open_tracing('api', 'x') is None\n"
        # redis-py itself has the metrics of an SDK that is installed.
        "wanted = ('shared.tracing.sdk', 'opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([one for one in sys.modules if one.startswith(wanted)])"
    )
    assert seen.strip() == "[]"


def test_without_the_extra_the_log_says_what_to_install_and_nothing_else_happens() -> None:
    seen = _python(
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from shared.logging import configure_logging\n"
        "configure_logging('text', 'info')\n"
        "from shared.tracing.switch import open_tracing\n"
        "assert open_tracing('api', 'x') is None",
        **ENDPOINT,
    )
    assert "no traces" in seen
    assert "pip install 'aqueduct-gateway[traces]'" in seen
    assert "Traceback" not in seen


def test_a_variable_that_the_sdk_cannot_read_leaves_requests_without_traces() -> None:
    seen = _python(
        "from shared.logging import configure_logging\n"
        "configure_logging('text', 'info')\n"
        "from shared.tracing.switch import open_tracing\n"
        "print(open_tracing('api', 'x'))",
        **ENDPOINT,
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="many",
    )
    assert "no traces" in seen and "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in seen
    assert "Traceback" not in seen


def test_a_spec_names_its_span_only_where_there_is_one() -> None:
    plain, member = JobSpec(tenant="a"), JobSpec(tenant="a").within("team")
    assert not any("trace" in json.loads(one.to_json()) for one in (plain, member))
    for spec in (plain.traced(CONTEXT), member.traced(CONTEXT), plain.traced(CONTEXT).within("team")):
        assert json.loads(spec.to_json())["trace"] == CONTEXT
        read = JobSpec.from_json(spec.to_json())
        assert (read.trace, read.group, read.tenant) == (CONTEXT, spec.group, "a")
    assert JobSpec.from_json(plain.to_json()).trace is None
    assert JobSpec.from_json(b'{"trace":5}').trace is None
