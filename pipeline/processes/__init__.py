"""The processes that work on one run: who they are, their signs of life, who watches them, how they start."""
