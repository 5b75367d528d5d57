"""Vision transformers for dense prediction, as a plug-in for the OpenMMLab libraries.

Importing this package is silent and light: it needs none of mmseg, mmdet and mmpretrain and touches no GPU.
The types become known to the OpenMMLab registries through :mod:`mmvit_ext.registry`, which mmengine imports by
itself as soon as it meets a type written with the scope, for example ``type='mmvit_ext.ATMHead'``.
"""

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .config.zoo import list_models
    from .inference.api import load

__all__ = ['__version__', 'list_models', 'load']


def __getattr__(name: str) -> Any:
    if name == 'load':
        from .inference.api import load

        return load
    if name == 'list_models':
        from .config.zoo import list_models

        return list_models
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
