"""The page of what becomes of LiteLLM's settings and providers: the tables that the importer reads, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aqueduct.importing.providers import NOT_SPOKEN, PROVIDERS
from aqueduct.importing.rules import DEPLOYMENT, GENERAL, LITELLM, MODEL_INFO, PARAMETERS, ROUTER, TOP, Rule
from tools.reference.tables import table

_HEAD = """# What becomes of a LiteLLM configuration

Written by `make docs-reference` from the tables that `aqueduct import litellm` reads
(`aqueduct/importing/rules.py`, `providers.py`). How to use it: [migrate](../how-to/migrate.md#from-litellm). What is
not named here is left out and told so; a setting that is off needs nothing."""
_VERDICTS = {"taken": "taken", "changed": "taken, look at it", "left": "left out", "needless": "needs nothing"}


def _rules(rules: Mapping[str, Rule]) -> str:
    rows = [
        (f"`{name}`", _VERDICTS[rule.verdict], f"`{rule.to}`" if rule.to else "", rule.text)
        for name, rule in rules.items()
    ]
    return table(("LiteLLM", "here", "setting", "why, and what to do"), rows)


def _providers() -> Iterator[tuple[str, str, str]]:
    for name, one in PROVIDERS.items():
        url = f"`{one.url}{one.path}`" if one.url else f"`api_base`{f' and `{one.path}`' if one.path else ''}"
        header = f", in the header `{one.key_header}`" if one.key_header else ""
        yield f"`{name}`", url, f"{f'`${{{one.key}}}`' if one.key else 'none'}{header}"


def page() -> str:
    """Return the page."""
    parameters = ", ".join(f"`{name}`" for name in sorted(PARAMETERS))
    parts = [
        _HEAD,
        "## The file",
        *(_rules(TOP), "## A deployment: litellm_params", _rules(DEPLOYMENT)),
        f"Parameters of requests become `backends[].parameters.defaults`: {parameters}. Prices, and what belongs to "
        "providers that are not called directly, need nothing.",
        *("## A deployment: model_info", _rules(MODEL_INFO)),
        *("## router_settings", _rules(ROUTER)),
        *("## litellm_settings", _rules(LITELLM)),
        *("## general_settings", _rules(GENERAL)),
        "## Providers that speak OpenAI's protocol",
        table(("provider", "base URL", "key, where none is given"), _providers()),
        "## Providers that do not",
        table(("provider", "why, and what to do"), [(f"`{name}`", text) for name, text in NOT_SPOKEN.items()]),
    ]
    return "\n\n".join(parts) + "\n"
