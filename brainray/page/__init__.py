"""The page of a run, `summary/report.html`: which images it shows, their thumbnails, its charts and its text.

Gets figures, tables and rows as values, and returns the page as text. Opens no run folder; `scoring` does.
"""
