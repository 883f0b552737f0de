"""The wandb mirror of a run: it follows metrics.jsonl in a process of its own and never holds the run up."""
