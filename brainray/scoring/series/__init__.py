"""Slices that belong together: their names, the roll-up of a run by series and by study, its figures and labels."""
