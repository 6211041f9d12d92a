"""A scoring run: manifest, shards, part files, verification, summary.

Must not import Ray: `brainray.cluster` runs these functions on a cluster, and tests run them in one process.
"""
