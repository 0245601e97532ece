"""Every snippet of README and docs is good by itself: it parses, its options are there, its settings are taken."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import textwrap
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import trustme
import yaml

from aqueduct.cli import cli
from shared.config import load_settings
from shared.settings import Settings
from tests.docs.snippets import PAGES, RUN, SHELL, Snippet, fits, snippets, unrun
from tests.support.processes import ROOT

UNRUN = unrun()
LANGUAGES = {
    *SHELL,
    "yaml",
    "json",
    "toml",
    "xml",
    "python",
    "javascript",
    "java",
    "go",
    "nginx",
    "properties",
    "text",
    "",
}
"""`nginx` is run by tests/e2e/test_nginx.py; `text` and unnamed ones are no code."""
_WRAPS = {0: "", 2: "models:\n", 4: "models:\n  m:\n", 6: "models:\n  m:\n    backends:\n"}
"""What stands above a piece of the file that begins so far to the right."""
_VARIABLE = re.compile(r"\$\{(\w+)\}")
ONE_MODEL = "models:\n  a-model:\n    backends: [{url: http://127.0.0.1:9000/v1}]\n"


def named(*languages: str) -> list[object]:
    return [pytest.param(snippet, id=snippet.id) for snippet in snippets(*languages)]


def test_every_snippet_says_in_which_language_it_is() -> None:
    assert [one.id for one in snippets() if one.language not in LANGUAGES] == []


def test_every_entry_of_the_list_is_about_one_snippet() -> None:
    assert [page for page in UNRUN.foreign_yaml if page not in PAGES] == []
    wrong = [entry for entry in UNRUN.entries if sum(fits(entry, one) for one in snippets()) != 1]
    assert wrong == [], "take it out of tests/docs/unrun.toml, or name the snippet by text that is its own"


def test_every_program_is_run_or_has_its_reason() -> None:
    strange = {name: one.id for one in snippets(*SHELL) if UNRUN.reason(one) is None for name in one.programs - RUN}
    assert strange == {}, "give the program a reason in tests/docs/unrun.toml, or run it: RUN in tests/docs/snippets.py"


@pytest.mark.parametrize("entry", [entry for entry in UNRUN.entries if "excerpt_of" in entry], ids=str)
def test_an_excerpt_stands_in_the_code(entry: dict[str, str]) -> None:
    (snippet,) = (one for one in snippets("python") if fits(entry, one))
    code = _bare((ROOT / entry["excerpt_of"]).read_text())
    assert [line for line in snippet.text.splitlines() if "…" not in line and _bare(line) not in code] == []


def _bare(text: str) -> str:
    """Return code without comments and space."""
    return "".join(re.sub(r"\s+", "", re.sub(r"\s+#.*", "", line)) for line in text.splitlines())


@pytest.mark.parametrize("snippet", named("yaml"))
def test_a_configuration_is_taken_as_it_stands(snippet: Snippet, tmp_path: Path) -> None:
    if UNRUN.of(snippet) is not None or snippet.page in UNRUN.foreign_yaml:
        yaml.safe_load(textwrap.dedent(snippet.text))
        return
    indent = len(snippet.text) - len(snippet.text.lstrip(" "))
    text = _WRAPS[indent] + snippet.text + "\n"
    settings = yaml.safe_load(text)
    assert settings.keys() <= Settings.model_fields.keys(), "no setting of ours: name it in tests/docs/unrun.toml"
    _complete(settings)
    file = tmp_path / "aqueduct.yaml"
    file.write_text(_with_certificates(yaml.safe_dump(settings, sort_keys=False), tmp_path))
    load_settings(file, environ={name: _value_of(name) for name in _VARIABLE.findall(file.read_text())})


def _with_certificates(text: str, folder: Path) -> str:
    """Put files that are there in the place of those that a page names."""
    if "/etc/aqueduct/" in text:
        authority = trustme.CA()
        shown = authority.issue_cert("client.example")
        authority.cert_pem.write_to_path(folder / "company-ca.pem")
        shown.cert_chain_pems[0].write_to_path(folder / "client.pem")
        shown.private_key_pem.write_to_path(folder / "client.key")
    return text.replace("/etc/aqueduct/", f"{folder}/")


def _complete(settings: dict[str, object]) -> None:
    """Put in what a piece leaves out: any model at all, and a model's backends."""
    models = settings.setdefault("models", yaml.safe_load(ONE_MODEL)["models"])
    assert isinstance(models, dict)
    for model in models.values():
        model.setdefault("backends", [{"url": "http://127.0.0.1:9000/v1"}])
    for name in _named_models(settings):
        models.setdefault(name, {"backends": [{"url": "http://127.0.0.1:9000/v1"}]})


def _named_models(settings: dict[str, object]) -> set[str]:
    """Return the models that groups and tokens name and the piece does not show."""
    entries = [entry for key in ("groups", "tokens") for entry in settings.get(key, ())]  # type: ignore[attr-defined]
    return {name for entry in entries for name in entry.get("models", ()) if name != "*"}


def _value_of(variable: str) -> str:
    if variable.endswith("SHA256"):
        return f"{abs(hash(variable)):064x}"
    if variable.endswith("WEBHOOK_SECRET"):
        return "whsec_" + "A" * 44
    return "redis://127.0.0.1:6379/0" if variable == "REDIS_URL" else "x"


def test_json_toml_and_xml_parse() -> None:
    for snippet in snippets("json"):
        json.loads(snippet.text)
    for snippet in snippets("toml"):
        tomllib.loads(snippet.text)
    for snippet in snippets("xml"):
        ElementTree.fromstring(f"<all>{snippet.text}</all>")  # noqa: S314 - ours


@pytest.mark.parametrize("snippet", named("python"))
def test_python_compiles(snippet: Snippet) -> None:
    if "…" not in snippet.text or UNRUN.of(snippet) is None:
        compile(snippet.text, snippet.id, "exec")


@pytest.mark.parametrize("snippet", named(*SHELL))
def test_shell_is_read_by_bash_and_every_option_of_aqueduct_is_there(snippet: Snippet) -> None:
    read = subprocess.run(["bash", "-n"], input=snippet.text, capture_output=True, text=True, timeout=30, check=False)
    assert read.returncode == 0, read.stderr
    for command in snippet.commands:
        for words in aqueduct_calls(command):
            try:
                _parse(words)
            except click.exceptions.NoArgsIsHelpError as error:
                raise AssertionError(f"`aqueduct {' '.join(words)}` names no command") from error
            except click.UsageError as error:
                if "does not exist" in error.message:
                    continue  # a file, which is the reader's
                raise AssertionError(f"`aqueduct {' '.join(words)}`: {error.format_message()}") from error


def _parse(words: list[str]) -> None:
    """Hold a command and its own commands against their options; raises UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="aqueduct")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(context.info_name, words, parent=context.parent)


def aqueduct_calls(command: str) -> list[list[str]]:
    """Return the words behind each `aqueduct` of a line, comments left out."""
    calls = []
    for line in command.splitlines():
        if re.match(r"\s*(\S*/)?aqueduct ", line):
            plain = re.split(r"\s[|>&;]+\s", line)[0]
            calls.append(shlex.split(plain, comments=True)[1:])
    return calls


def test_the_options_of_a_wrong_command_are_told() -> None:
    snippet = Snippet("x.md", 1, "sh", "aqueduct token create me --no-such-option")
    with pytest.raises(AssertionError, match="no-such-option"):
        test_shell_is_read_by_bash_and_every_option_of_aqueduct_is_there(snippet)
