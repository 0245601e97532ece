"""Batches as the store holds them: the record, the lines of the input, the results; API and workers share it.

Nothing here knows HTTP, Redis or a kind of job. The truth about a batch is what lies in the store.
"""
