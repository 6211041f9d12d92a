"""Tables as text: CSV and the like and JSON Lines as batches of text columns, and the names of their columns."""
