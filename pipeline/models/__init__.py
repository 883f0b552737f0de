"""Models on disk: seeds, folders, Hub ids and other runs' weights, and how they are loaded."""
