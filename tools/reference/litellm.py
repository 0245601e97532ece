"""The page of what becomes of LiteLLM's settings and providers: the tables that the importer reads, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aqueduct.importing.providers import NOT_SPOKEN, PROVIDERS
from aqueduct.importing.rules import DEPLOYMENT, GENERAL, LITELLM, MODEL_INFO, PARAMETERS, ROUTER, TOP, Rule

_HEAD = """# What becomes of a LiteLLM configuration

Written by `make docs-reference` from the tables that `aqueduct import litellm` reads
(`aqueduct/importing/rules.py`, `providers.py`). How to use it: [migrate](../how-to/migrate.md#from-litellm). What is
not named here is left out and told so; a setting that is off needs nothing."""
_VERDICTS = {"taken": "taken", "changed": "taken, look at it", "left": "left out", "needless": "needs nothing"}


def _table(rules: Mapping[str, Rule]) -> Iterator[str]:
    yield "| LiteLLM | here | setting | why, and what to do |\n| --- | --- | --- | --- |"
    for name, rule in rules.items():
        setting = f"`{rule.to}`" if rule.to else ""
        yield f"| `{name}` | {_VERDICTS[rule.verdict]} | {setting} | {rule.text.replace('|', chr(92) + '|')} |"


def _providers() -> Iterator[str]:
    yield "| provider | base URL | key, where none is given |\n| --- | --- | --- |"
    for name, one in PROVIDERS.items():
        url = f"`{one.url}{one.path}`" if one.url else f"`api_base`{f' and `{one.path}`' if one.path else ''}"
        header = f", in the header `{one.key_header}`" if one.key_header else ""
        yield f"| `{name}` | {url} | {f'`${{{one.key}}}`' if one.key else 'none'}{header} |"


def _not_spoken() -> Iterator[str]:
    yield "| provider | why, and what to do |\n| --- | --- |"
    for name, text in NOT_SPOKEN.items():
        yield f"| `{name}` | {text} |"


def page() -> str:
    """Return the page."""
    parameters = ", ".join(f"`{name}`" for name in sorted(PARAMETERS))
    parts = [
        _HEAD,
        "## The file",
        *("\n".join(_table(TOP)), "## A deployment: litellm_params", "\n".join(_table(DEPLOYMENT))),
        f"Parameters of requests become `backends[].parameters.defaults`: {parameters}. Prices, and what belongs to "
        "providers that are not called directly, need nothing.",
        *("## A deployment: model_info", "\n".join(_table(MODEL_INFO))),
        *("## router_settings", "\n".join(_table(ROUTER))),
        *("## litellm_settings", "\n".join(_table(LITELLM))),
        *("## general_settings", "\n".join(_table(GENERAL))),
        "## Providers that speak OpenAI's protocol",
        *("\n".join(_providers()), "## Providers that do not", "\n".join(_not_spoken())),
    ]
    return "\n\n".join(parts) + "\n"
