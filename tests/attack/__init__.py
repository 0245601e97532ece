"""Hostile inputs against a running stack, from both sides; `make attack` runs them and prints a table."""
