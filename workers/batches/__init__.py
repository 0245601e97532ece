"""Batches: one feeder each, under a lease, keeps a window of its lines in Redis and writes what ends to the store.

The truth is there: record, input and segments. What Redis knows can be lost at any moment; a line whose record is
gone is admitted again, and the first result of a line counts.
"""
