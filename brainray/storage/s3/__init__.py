"""S3 buckets: clients, requests, listing, conditional writes, and errors as `StorageError`.

Only `brainray.storage` imports it.
"""
