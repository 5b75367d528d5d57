"""A mini dataset made on the spot: real JPEG and PNG files in the layouts of five datasets, without a download.

Of its eight classes sky, wall, grass and gravel are recognised by their texture, in varying, partly overlapping tints;
airplane, cat, cup and motorcycle by texture together with a silhouette. Crates, stars and blobs filled with other
photographs belong to no class. A small network learns this from some hundred pictures, yet not by colour alone.
"""

from .catalog import MINI_CLASSES, MiniClass, MiniDatasetError
from .writer import DATA_ROOTS, make_mini_dataset

__all__ = ['DATA_ROOTS', 'MINI_CLASSES', 'MiniClass', 'MiniDatasetError', 'make_mini_dataset']
