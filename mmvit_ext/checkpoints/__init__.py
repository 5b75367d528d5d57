"""Checkpoints: safe reading, the newest of a run, downloads, the report of loaded weights, conversion."""
