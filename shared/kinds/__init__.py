"""Kinds of jobs: what is accepted, what a backend is asked, and what becomes of its answer.

Each kind is a folder, and a name in `KINDS`: endpoint, queue and worker know it from there.
"""

from shared.kinds.chat import CHAT
from shared.kinds.completions import COMPLETIONS
from shared.kinds.embeddings import EMBEDDINGS
from shared.kinds.kind import Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (CHAT, COMPLETIONS, EMBEDDINGS)}

__all__ = ["KINDS", "Kind"]
