"""`POST /completions`: a prompt of text or tokens in, its continuation out, whole or in chunks."""

from __future__ import annotations

from shared.kinds.common.ask import for_backend
from shared.kinds.common.sse import error_event
from shared.kinds.completions.accept import accept, validate
from shared.kinds.completions.answer import open_fold, open_stream, rewrite
from shared.kinds.completions.schema import COMPLETION_REQUEST
from shared.kinds.kind import Description, Kind


def _answers() -> tuple[type, ...]:
    from openai.types import Completion  # noqa: PLC0415 - most of a second

    return Completion, Completion


COMPLETIONS = Kind(
    name="completions",
    path="/completions",
    validate=validate,
    accept=accept,
    request=for_backend,
    stream=open_stream,
    fold=open_fold,
    plain=rewrite,
    check=None,
    asked_again=None,
    error_event=error_event,
    description=Description(
        operation_id="createCompletion",
        tag="Completions",
        summary="Continue a prompt, streamed as server-sent events when `stream` is true.",
        request="CreateCompletionRequest",
        schema=COMPLETION_REQUEST,
        answers=_answers,
    ),
)
