"""Dataset types and transforms.

The modules that build on mmcv and mmseg are left out where those are not installed, and only then: one that is
installed but cannot be imported raises here, because a type that is silently missing is much harder to understand.
"""

from importlib.util import find_spec

__all__: list[str] = []

if find_spec('mmcv') is not None:
    from .distortions import PasteOccluder, RotateImage
    from .placement import LoadBoxes, TrackPlacement
    from .skip_bad import SkipBadSamples
    from .transforms import LoadImageFromFile

    __all__ += ['LoadBoxes', 'LoadImageFromFile', 'PasteOccluder', 'RotateImage', 'SkipBadSamples', 'TrackPlacement']

if find_spec('mmcv') is not None and find_spec('mmseg') is not None:
    from .seg_transforms import LoadSegAnnotations

    __all__ += ['LoadSegAnnotations']
