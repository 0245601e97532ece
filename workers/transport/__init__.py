"""How a worker reaches a backend: `open_transport` chooses, `base` says what every transport promises."""
