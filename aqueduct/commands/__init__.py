"""The subcommands of `aqueduct`, a module each, with `add_parser(subparsers)` and `run(args) -> int`.

Their imports from the other packages are inside `run`, so that `aqueduct --help` answers at once.
"""
