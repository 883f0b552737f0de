"""metrics.jsonl first; the console; wandb as its mirror; the HTML report."""
