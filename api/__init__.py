"""HTTP in, HTTP out. Never talks to a backend, never imports `workers`."""
