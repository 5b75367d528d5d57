"""Segmentation heads. They extend mmseg's ``BaseDecodeHead`` and need mmseg."""

from .atm_head import ATMHead
from .shrunk_atm_head import ShrunkATMHead
from .superpixel_head import SuperpixelHead

__all__ = ['ATMHead', 'ShrunkATMHead', 'SuperpixelHead']
