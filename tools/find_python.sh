#!/bin/sh
# Print the first Python that runs and is 3.11 or newer. A name on the PATH is not enough: version managers put
# shims there that fail when called. Exit 1, with a message, when there is none.
for name in python3.13 python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        command -v "$name"
        exit 0
    fi
done
echo 'error: no Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.13 …' >&2
exit 1
