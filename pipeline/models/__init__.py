"""Weights to words: seeds, policies, PRM heads, engines, asks and the driver."""
