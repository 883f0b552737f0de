"""A run: its folders, which version of each model stands, gates, the record of metrics, lock and session."""
