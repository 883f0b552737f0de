"""A stage: planned, done chunk by chunk, committed. One file a kind of work."""
