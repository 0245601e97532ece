"""`concurrency: auto`: how many requests a backend is given at once, found by measuring (docs/adr/0025)."""
