"""Dataset types and transforms.

They are left out where mmcv is not installed, and only then: one that is installed but cannot be imported raises here,
because a type that is silently missing is much harder to understand.
"""

from importlib.util import find_spec

__all__: list[str] = []

if find_spec('mmcv') is not None:
    from .collate import collate_labels
    from .distortions import PasteOccluder, RotateImage
    from .list_dataset import ListSegDataset
    from .placement import LoadBoxes, TrackPlacement
    from .seg_transforms import LoadSegAnnotations
    from .skip_bad import SkipBadSamples
    from .transforms import LoadImageFromFile

    __all__ += ['ListSegDataset', 'LoadBoxes', 'LoadImageFromFile', 'LoadSegAnnotations', 'PasteOccluder']
    __all__ += ['RotateImage', 'SkipBadSamples', 'TrackPlacement', 'collate_labels']
