"""The vocabulary both sides speak: settings, errors, schemas, keys, jobs, events and the waiting room.

Imports neither `api` nor `workers` nor `aqueduct`; an import contract keeps it so.
"""
