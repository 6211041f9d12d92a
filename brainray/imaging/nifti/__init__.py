"""Slices of NIfTI volumes: their pictures in 8 bits, and whether they are ones that a model knows.

`inputs.frames.nifti` reads the files; nothing here imports nibabel.
"""
