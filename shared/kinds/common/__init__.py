"""What all kinds share: bytes and errors of backends, bodies and refusals of callers."""
