"""Chat completions made with `store: true`: written to the file store, shown, and read on."""
