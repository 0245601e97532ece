"""What tokens, groups and models have used: counted by the scripts, read, rolled into the file store, and reported."""
