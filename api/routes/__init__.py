"""Thin handlers, one resource a module."""
