"""What the gateway costs: `python -m benchmarks` starts it over a fast fake backend, drives it, and prints tables."""
