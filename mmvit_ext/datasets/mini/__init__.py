"""A mini dataset made on the spot: real JPEG and PNG files in the layouts of five datasets, without a download.

Eight classes: sky, wall, grass and gravel are recognised by their texture (grey photographs in varying, partly
overlapping tints); airplane, cat, cup and motorcycle by texture together with a silhouette (concave, with thin parts
and, for cup and motorcycle, holes). Crates, stars and blobs filled with other photographs belong to no class. A small
network can learn this from some hundred pictures, yet colour alone does not do: airplanes and gravel are both grey,
and the things of no class are as orange or grey as a cup or an airplane.
"""

from .catalog import MINI_CLASSES, MiniClass, MiniDatasetError
from .writer import DATA_ROOTS, make_mini_dataset

__all__ = ['DATA_ROOTS', 'MINI_CLASSES', 'MiniClass', 'MiniDatasetError', 'make_mini_dataset']
