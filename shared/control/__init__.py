"""What operators do to models, backends and jobs while the gateway runs: for the commands, the API and Celery alike.

Each action is one script, or few, and writes what it did into the audit log in the same step. `docs/how-to/control.md`
tells how to use them.
"""
