"""The page that shows a run, and what is stored to make it again."""
