"""The subcommands of `aqueduct`, a module each, with a click `command` that returns the exit status.

Their imports from the other packages are inside that function, so that `aqueduct --help` answers at once.
"""
