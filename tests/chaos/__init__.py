"""The chaos suite: real processes under load, killed, frozen and cut off, with every answer checked byte for byte.

`make chaos` runs it; `python -m tests.chaos --help` lists the faults, and the `soak` and `cancels` runs.
"""
