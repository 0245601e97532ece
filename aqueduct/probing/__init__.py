"""What `aqueduct check` asks backends: whether they know the model, and with `--probe` what they refuse."""
