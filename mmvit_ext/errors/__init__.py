"""Errors that a user can act on, and how they are told."""
