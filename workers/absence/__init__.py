"""Models whose backends may be away: their jobs wait, a hook has them started, and another stops who is idle."""
