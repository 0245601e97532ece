"""Files that callers hand over, and those that batches make for them: a record and its bytes, in the store."""

from shared.files.files import Files
from shared.files.record import FileRecord, tenant_folder

__all__ = ["FileRecord", "Files", "tenant_folder"]
