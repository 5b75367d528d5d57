"""All registered models. Decode heads extend mmseg's base class and exist only where mmseg is installed."""

from mmvit_ext.machine import importable

from .backbones import *  # noqa: F403
from .classifiers import *  # noqa: F403
from .generators import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .superpixel_extractor import *  # noqa: F403

if importable('mmseg.models'):
    from .decode_heads import *  # noqa: F403
    from .segmentors import *  # noqa: F403
