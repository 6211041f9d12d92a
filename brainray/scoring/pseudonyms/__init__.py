"""Runs that hold no name of their input: what stands in place of names, and where the names are kept.

`key` makes pseudonyms, `listing` replaces the names of a listing, `names` finds them again for whoever has the folder
that the user named, `errors` keeps them out of what is said of images that cannot be read.
"""
