"""What is measured of a model: metrics, and the computation it takes."""

from .compute import count_flops

__all__ = ['count_flops']
