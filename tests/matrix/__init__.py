"""Answers of real servers, as files of bytes, through the whole gateway, read by real clients (README.md)."""
