"""Vision transformers for dense prediction, as a plug-in for the OpenMMLab libraries.

Importing this package is silent and light: it needs none of mmseg, mmdet and mmpretrain and touches no GPU.
The types become known to the OpenMMLab registries through :mod:`mmvit_ext.registry`, which mmengine imports by
itself as soon as it meets a type written with the scope, for example ``type='mmvit_ext.ATMHead'``.
"""

from .version import __version__

__all__ = ['__version__']
