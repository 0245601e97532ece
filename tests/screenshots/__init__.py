"""Makes the pictures of the status page that the documentation shows: `python -m tests.screenshots`."""
