"""Traces by OpenTelemetry: off, and nothing of it imported, unless its own `OTEL_*` variables ask for them.

A context travels as one line of text: the W3C's `traceparent`, and behind a space the `tracestate` if there is one.
"""
