"""A run: manifest, shards, part files, verification, summary. Knows no Ray; `brainray.cluster` runs it on Ray."""
