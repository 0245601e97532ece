"""`POST /embeddings`: texts or tokens in, a vector for each out. Never streamed."""

from __future__ import annotations

from shared.kinds.common.ask import for_backend
from shared.kinds.common.sse import error_event
from shared.kinds.embeddings.accept import accept, validate
from shared.kinds.embeddings.answer import rewrite
from shared.kinds.embeddings.schema import EMBEDDING_REQUEST, CreateEmbeddingResponse
from shared.kinds.kind import Description, Kind

EMBEDDINGS = Kind(
    name="embeddings",
    path="/embeddings",
    validate=validate,
    accept=accept,
    request=for_backend,
    stream=None,
    fold=None,
    plain=rewrite,
    check=None,
    asked_again=None,
    error_event=error_event,
    description=Description(
        operation_id="createEmbedding",
        tag="Embeddings",
        summary="Create embeddings of texts or tokens.",
        request="CreateEmbeddingRequest",
        schema=EMBEDDING_REQUEST,
        answers=lambda: (CreateEmbeddingResponse,),
    ),
)
