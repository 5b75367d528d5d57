"""Which network converted weights fit: it is built on the meta device, and names and shapes are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.checkpoints.report import weights_report

from .rules import require_keys

__all__ = ['describe_network', 'require_fit']


def require_fit(
    network: Any, arguments: Mapping[str, Any], converted: Mapping[str, Tensor], method: str, prefix: str = 'backbone.'
) -> None:
    """Compare the converted weights behind a prefix with a network class and its arguments.

    Numbers of heads, which no shape states, may be missing in ``arch``.

    Raises:
        ValueError: Names are missing or left over, or tensors are of another shape.
    """
    arch = dict(arguments['arch'])
    for name in next(iter(network.ARCHS.values())).keys() - arch.keys():
        like = arch.get('embed_dims', 1)  # a number of heads for each stage, where there are stages
        arch[name] = (1,) * len(like) if isinstance(like, tuple) else 1
    with torch.device('meta'):
        model: nn.Module = network(**{**arguments, 'arch': arch})
    ours = {f'{prefix}{name}': value for name, value in model.state_dict().items()}
    report = weights_report(ours, {name: value for name, value in converted.items() if name.startswith(prefix)})
    require_keys(converted, ours, method)
    if not report.exact:
        raise ValueError(f'{method}: the weights do not fit the network that their shapes describe: {report}')


def describe_network(network: Any, arguments: Mapping[str, Any], kind: str, hint: str = '') -> str:
    """One sentence on what a file holds, with the arguments that fit it; ``hint`` is on unpublished sizes."""
    arch = arguments['arch']
    others = {name: value for name, value in arguments.items() if name != 'arch'}
    for name, published in network.ARCHS.items():
        if all(published.get(key) == value for key, value in arch.items()):
            settings = ', '.join(f'{key}={value!r}' for key, value in {'arch': name, **others}.items())
            return f'{network.__name__}-{name.capitalize()} {kind}: {settings}'
    settings = ', '.join(f'{key}={value!r}' for key, value in {**arch, **others}.items())
    return (
        f'{kind}, with a {network.__name__} of none of the published sizes{hint}: {settings}; the numbers of heads '
        'cannot be read off the shapes'
    )
