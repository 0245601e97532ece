"""A model as the kinds see it: settings alone, whose backends nobody calls."""

from __future__ import annotations

from typing import Any

from shared.settings import ModelSettings


def model_of(**settings: Any) -> ModelSettings:
    """Return a model with these settings."""
    return ModelSettings.model_validate({"backends": [{"url": "http://127.0.0.1:1/v1"}], **settings})
