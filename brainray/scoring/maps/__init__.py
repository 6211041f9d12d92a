"""Maps of where the scores of a run came from: which images get one, and the table that holds them."""
