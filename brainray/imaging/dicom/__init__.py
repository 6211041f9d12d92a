"""DICOM files: the header, whether a picture is one that a model knows, and its pixels in 8 bits.

The only folder of `imaging` that imports pydicom, an extra, by `inputs.frames.library`.
"""
