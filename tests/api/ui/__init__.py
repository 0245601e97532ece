"""The pages of `/ui`, below HTTP."""
