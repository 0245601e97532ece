"""A deployment's parameters in, its provider and model out; or the reason why it cannot be called directly."""

from __future__ import annotations

import re
from typing import Any, Final

from aqueduct.importing.providers import NOT_SPOKEN, PROVIDERS
from aqueduct.importing.rules import is_off
from aqueduct.importing.variables import environment_name

_OPENAI: Final = re.compile(r"(gpt|chatgpt|o[1-9]|text-embedding|ft:gpt|davinci|babbage|codex|computer-use)\b.*")
_OTHERS: Final = {"claude": "anthropic", "gemini": "vertex_ai", "command": "cohere", "mistral.": "bedrock"}
_NOT_CHAT: Final = re.compile(
    r"(dall-e|whisper|tts-|gpt-image|omni-moderation|text-moderation|sora|imagen)|.*(-transcribe|-realtime|-tts)\b"
)
_ROUTES: Final = ("responses", "chat_completions", "assistants", "batch", "image_generation", "audio", "realtime")


class Left(Exception):
    """This deployment cannot be called directly; the text says why, and what to do."""


def provider_of(params: dict[str, Any]) -> tuple[str, str]:
    """Return provider and model; raises Left where we cannot speak with the provider."""
    model = params.get("model")
    if not isinstance(model, str) or not model.strip():
        raise Left("litellm_params.model must be text, as openai/gpt-4o")
    given = params.get("custom_llm_provider")
    name, _, rest = model.partition("/")
    if environment_name(model) is not None:
        named = "azure" if not is_off(params.get("api_version")) else "openai"
        name, rest = (given if isinstance(given, str) and given else named), model
        if not params.get("api_base") and not params.get("base_url") and not given:
            raise Left(
                "model comes from the environment, and so its provider is not known; write `openai/…` with api_base"
            )
    elif isinstance(given, str) and given and name != given:
        name, rest = given, model
    elif name not in PROVIDERS and name not in NOT_SPOKEN:
        name, rest = _guessed(model, params), model
    if name in NOT_SPOKEN:
        raise Left(f"{name} {NOT_SPOKEN[name]}")
    if name not in PROVIDERS:
        raise Left(
            f"the provider {name} is not known here; if it speaks OpenAI's protocol, write `openai/…` with api_base"
        )
    head = rest.partition("/")[0]
    if name in ("openai", "azure") and head in _ROUTES and "/" in rest:
        raise Left(f"LiteLLM calls another endpoint for {name}/{head}/…; name the model without {head}/ if it can chat")
    if name == "azure" and head in ("o_series", "gpt5_series"):
        rest = rest.partition("/")[2]
    if not rest:
        raise Left("names no model")
    if name in ("openai", "azure") and _NOT_CHAT.match(rest):
        raise Left(f"{rest} is no model for chat, completions or embeddings: its endpoint is not served")
    return name, rest


def _guessed(model: str, params: dict[str, Any]) -> str:
    """Return the provider of a model that is named without one, as LiteLLM knows them by heart."""
    base = params.get("api_base") or params.get("base_url")
    for beginning, name in _OTHERS.items():
        if model.startswith(beginning):
            return name
    if _OPENAI.fullmatch(model) or _NOT_CHAT.match(model) or model == "*":
        return "openai"
    if base and "/" not in model:
        return "openai"
    raise Left("the provider is not known here; if it speaks OpenAI's protocol, write `openai/…` with api_base")
