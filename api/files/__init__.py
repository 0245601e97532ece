"""Files and uploads as callers hand them over: forms read as they come, never whole in memory."""
