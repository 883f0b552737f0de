"""A recipe: its file read and held against settings, what it means, the methods it names, what it costs."""
