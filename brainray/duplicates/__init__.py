"""Near-duplicate search: finds images of one picture that were resized, recompressed, mirrored or otherwise altered.

Must not import Ray or torch.
"""
