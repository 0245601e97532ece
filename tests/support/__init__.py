"""What tests share: real processes, waiting for conditions, and the check for forgotten Redis keys."""
