"""Backbones: image in, feature maps out. They need torch, mmengine and mmcv only."""

from .shrunk_vit import ShrunkViT
from .vit import ViT

__all__ = ['ShrunkViT', 'ViT']
