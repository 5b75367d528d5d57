"""What a model takes."""

from torch import nn

__all__ = ['image_channels']


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its backbone's first convolution, three where it has none."""
    modules = getattr(model, 'backbone', model).modules()
    return next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), 3)
