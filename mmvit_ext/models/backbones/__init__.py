"""Backbones: image in, feature maps out. They need torch, mmengine and mmcv only."""

from .nest import NesT
from .p2t import P2T
from .shrunk_vit import ShrunkViT
from .spformer import SPFormer
from .timm_vit import TimmViT
from .tnt import TNT
from .vit import ViT

__all__ = ['P2T', 'TNT', 'NesT', 'SPFormer', 'ShrunkViT', 'TimmViT', 'ViT']
