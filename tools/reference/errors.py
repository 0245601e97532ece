"""The page of all error codes."""

from __future__ import annotations

from tools.reference.error_codes import GROUPS
from tools.reference.tables import table

HEAD = """# Errors

Written by `make docs-reference` from `tools/reference/error_codes.py`; a test holds it against the code. Always
`{"error": {"message", "type", "param", "code"}}`; after the first byte of a stream the same as a `data:` event before
`[DONE]`, behind status 200. `retry-after`, `retry-after-ms` and `x-should-retry` say whether and when another try can
help; the OpenAI SDKs obey.

A backend's own 4xx keeps its status, message and code, so that further codes come from there; its 401, 403 and 404
are the operator's to mend and become 500 `backend_error`. Faults in a batch's file have codes of their own: [run
batches](../how-to/run-batches.md#what-is-wrong-with-a-file-and-with-a-line). By symptom:
[troubleshoot](../how-to/troubleshoot.md).

"""


def page() -> str:
    """Return the page: a table a group."""
    parts = []
    for title, codes in GROUPS.items():
        rows = [(", ".join(map(str, one.statuses)), f"`{one.code}`", one.meaning, one.remedy) for one in codes]
        parts.append(f"## {title}\n\n{table(('status', 'code', 'what has happened', 'what to do'), rows)}")
    return HEAD + "\n\n".join(parts) + "\n"
