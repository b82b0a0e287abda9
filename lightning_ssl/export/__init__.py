"""Trained classifiers as files for programs that do without this package."""
