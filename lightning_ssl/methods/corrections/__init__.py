"""Corrections for imbalanced classes: objects that a method has."""
