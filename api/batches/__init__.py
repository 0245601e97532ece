"""Batches on the API's side: what callers may ask, and what becomes of it in the store. The routes are thin."""
