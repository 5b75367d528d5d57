"""Segmentation heads. They extend mmseg's ``BaseDecodeHead`` and need mmseg."""

from .atm_head import ATMHead

__all__ = ['ATMHead']
