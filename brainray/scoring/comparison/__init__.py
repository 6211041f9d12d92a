"""Two runs side by side: their rows, the figures of the comparison and its page."""
