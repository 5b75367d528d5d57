"""Losses that no OpenMMLab library has."""

from .atm_loss import ATMLoss

__all__ = ['ATMLoss']
