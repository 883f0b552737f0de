"""What serves the asks of searches: the driver, local engines and servers, their batches and caches."""
