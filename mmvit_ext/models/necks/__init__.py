"""Necks: feature maps in, feature maps out. They need torch, mmengine and mmcv only."""

from .plain_pyramid import PlainPyramid

__all__ = ['PlainPyramid']
