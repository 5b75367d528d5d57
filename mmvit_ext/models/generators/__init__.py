"""Networks that make images, and their training."""

from .adversarial import AdversarialModel
from .nest_generator import NesTGenerator
from .sagan import ConvDiscriminator, ConvGenerator

__all__ = ['AdversarialModel', 'ConvDiscriminator', 'ConvGenerator', 'NesTGenerator']
