"""Numbers that were found by measuring, on two cores; `make bench` shows what a change of one does.

Each trades something: the benchmark's scenario that justifies it is named with it.
"""

from __future__ import annotations

from typing import Final

SURPLUS_SECONDS: Final = 0.02
"""Head start for the model's other workers before one takes more than its fair part. `plain`, several workers."""
MAX_TAKE: Final = 64
"""Jobs in one call: bodies travel inside, and the script blocks Redis for everybody. `burst`."""
WINDOW_SECONDS: Final = 0.025
BUSY_JOBS: Final = 12
"""Jobs in a window from which on tickets cost more than looking: about 500 a second, more than one caller can send.
`plain` at 64 clients gains, `one` must not lose."""
LOOK_SECONDS: Final = 0.002
"""How often a busy worker looks. `plain`."""
GATHER_FROM: Final = 500
GATHER_FULL: Final = 2500
GATHER_SECONDS: Final = 0.005
GATHER_URGENT: Final = 0.6
GATHER_CROWD: Final = 8
"""From GATHER_FROM parts of jobs a second on a call waits for more, from GATHER_FULL on for GATHER_SECONDS. First words
and ends wait for GATHER_URGENT of it where the call before carried a crowd, and else for nothing. Each call costs the
worker, Redis and the API a step of its own, and chunks of a stream that leave together are one event. `streams`,
`paced` and `plain` at 64 clients gain, `one` and `plain` at 16 must not lose."""
MAX_CALL_JOBS: Final = 256
"""Whose events one call carries: with a thousand streams a call for all of them took 50 ms, and each first token
waited for one and was part of the next. Half as many bring first tokens sooner still, and make all other chunks wait.
`paced1000` and `fast` (`make bench ARGS="--against TREE --only …"`)."""
MAX_CALLS: Final = 2
"""Under way at the same time, in a crowd: more of them are as one large call."""
YIELD_SECONDS: Final = 0.0003
"""The consumer's thread steps aside for so long after a ticket: the jobs' thread starts at once instead of waiting for
the interpreter's lock until the consumer next blocks (measured: 0.3 ms later). `one`."""
