"""Backbones: image in, feature maps out. They need torch, mmengine and mmcv only."""

from .vit import ViT

__all__ = ['ViT']
