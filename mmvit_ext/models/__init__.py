"""All registered models. Decode heads extend mmseg's base class and exist only where mmseg is installed."""

from importlib import import_module

from .backbones import *  # noqa: F403
from .classifiers import *  # noqa: F403
from .generators import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .superpixel_extractor import *  # noqa: F403

try:
    import_module('mmseg.models')
except Exception:  # not installed, or broken by a version of something else that these models do not need
    pass
else:
    from .decode_heads import *  # noqa: F403
    from .segmentors import *  # noqa: F403
