"""All registered models. Heads, segmentors and detectors that extend a library exist only where it is installed."""

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
if importable('mmdet.models'):
    from .eomt import *  # noqa: F403
if importable('mmdet.models') and importable('mmseg.models'):
    from .eomt_segmentor import *  # noqa: F403
