"""Predicted classes as labels: the table, and what of it counts."""
