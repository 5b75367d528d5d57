"""Segmentation heads. They extend mmseg's ``BaseDecodeHead`` and need mmseg."""

from .atm_head import ATMHead
from .pixel_losses import FPNHead, SETRUPHead
from .shrunk_atm_head import ShrunkATMHead
from .superpixel_head import SuperpixelHead

__all__ = ['ATMHead', 'FPNHead', 'SETRUPHead', 'ShrunkATMHead', 'SuperpixelHead']
