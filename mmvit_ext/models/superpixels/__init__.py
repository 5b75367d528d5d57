"""Superpixels on a grid: the attention between them and the pixels around them, and maps made of it."""
