"""The `aqueduct` command: all of the gateway on one machine, or any one part of it."""
