"""Configs: loading, walking over and changing them, and building what they describe."""
