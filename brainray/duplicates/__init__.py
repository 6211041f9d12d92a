"""Near-duplicate search: which images are the same picture, whatever was done to it. Knows no Ray."""
