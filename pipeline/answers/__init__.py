"""Is it right? Extraction, comparison, and the jail for untrusted text."""
