"""Everything durable: plan, parts, manifests, lock, weights. Only this room opens files of a run for
writing.
"""
