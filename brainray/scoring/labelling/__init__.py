"""Labels that a person gives to a sample of a run: which images, on which page, and what the answers say of the run."""
