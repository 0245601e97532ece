"""Kinds of jobs: what is accepted, what a backend is asked, and what becomes of its answer."""
