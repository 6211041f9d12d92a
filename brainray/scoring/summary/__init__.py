"""What is computed from the rows of a run: tables, figures, the page, the list to review, maps."""
