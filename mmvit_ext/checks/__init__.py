"""Checks of types, files, datasets and class counts before a run, and of every sample on request."""
