"""A folder of somebody's images and annotations: what it holds, and datasets for it."""

from .data import FolderData, Object, Sample
from .understanding import understand
from .writing import write_datasets

__all__ = ['FolderData', 'Object', 'Sample', 'understand', 'write_datasets']
