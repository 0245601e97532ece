"""Queue in, events out. Never imports `api`."""
