"""Lists the images of the inputs (folders, file lists, archives) with their labels, and reads their bytes.

Decodes no image: bytes go to `imaging`.
"""
