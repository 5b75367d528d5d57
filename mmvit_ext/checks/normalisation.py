"""The normalisation of a config's images against that of the pretrained weights: other numbers run, but cost accuracy.

Images are loaded in BGR, as mmcv does; mean and standard deviation are those of pixel values in 0..255.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from mmvit_ext.config.walking import is_pretrained, iter_dataset_cfgs, step_name, walk
from mmvit_ext.errors.type_names import find_type, root_registry
from mmvit_ext.models.backbones.timm_vit import TimmViT, published_weights

__all__ = ['check_normalisation']

TOLERANCE = 0.5
"""Difference of pixel values that is taken for rounding: half a grey level."""


class Normalisation(NamedTuple):
    """What a config does with the values of an image."""

    key: str  # dotted key of the part that does it
    flag: str  # its argument that turns BGR into RGB
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool

    def __str__(self) -> str:
        order = 'RGB' if self.rgb else 'BGR'
        return f'{order} images with mean {_listed(self.mean)} and std {_listed(self.std)}'


def check_normalisation(cfg: Config, scope: str, split: str) -> list[str]:
    """Compare what the images of a split go through with what the config's pretrained weights were trained on.

    Args:
        cfg: The config, with its ``init_cfg`` still in it.
        scope: Its default scope.
        split: 'train' or 'test'.

    Returns:
        A sentence, worth a warning, where they differ; nothing where the backbone's weights state no normalisation.
    """
    backbone = (cfg.get('model') or {}).get('backbone')
    found = _normalisation(cfg, scope, split)
    if not isinstance(backbone, Mapping) or found is None or not _is_pretrained_timm(backbone, scope):
        return []
    try:
        published = published_weights(str(backbone.get('model')))
    except RuntimeError:  # a tag that timm does not know, which building the network tells
        return []
    if published is None or backbone.get('in_channels', 3) != 3:
        return []
    mean, std = (tuple(255 * value for value in values) for values in (published.mean, published.std))
    wanted = Normalisation(found.key, found.flag, mean, std, True)
    changes = [
        f'{found.key}.{name}=[{_listed(theirs)}]'
        for name, ours, theirs in (('mean', found.mean, mean), ('std', found.std, std))
        if any(abs(one - other) > TOLERANCE for one, other in zip(ours, theirs, strict=True))
    ]
    changes += [] if found.rgb else [f'{found.key}.{found.flag}=True']
    if not changes:
        return []
    return [f'the weights of {backbone["model"]} expect {wanted}, the config gives {found}: set {", ".join(changes)}']


def _is_pretrained_timm(backbone: Mapping[str, Any], scope: str) -> bool:
    kind, root = backbone.get('type'), root_registry('model')
    if isinstance(kind, str) and root is not None:
        kind = find_type(kind, root, scope)
    given = backbone.get('init_cfg')
    loads = any(map(is_pretrained, given if isinstance(given, list | tuple) else [given]))
    return isinstance(kind, type) and issubclass(kind, TimmViT) and bool(loads or backbone.get('checkpoint'))


def _normalisation(cfg: Config, scope: str, split: str) -> Normalisation | None:
    """What the data preprocessor does, or a step of the pipeline; ``None`` for images of other than three channels."""
    inside = (cfg.get('model') or {}).get('data_preprocessor')
    node, key = inside or cfg.get('data_preprocessor') or {}, 'data_preprocessor'
    if inside or (not node and scope != 'mmpretrain'):
        key = 'model.data_preprocessor'
    flag = 'to_rgb' if scope == 'mmpretrain' else 'bgr_to_rgb'
    rgb = any(bool(node.get(name)) for name in ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'))
    if node.get('mean') is None:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        steps = [
            (dotted, step)
            for name, leaf in iter_dataset_cfgs(dataset, f'{split}_dataloader.dataset')
            for dotted, step in walk(leaf.get('pipeline'), f'{name}.pipeline.')
            if isinstance(step, Mapping) and step_name(step).rpartition('.')[2] == 'Normalize'
        ]
        if steps:
            (key, node), flag = steps[0], 'to_rgb'
            rgb ^= bool(node.get('to_rgb', True))
    mean, std = (_three(node.get(name), default) for name, default in (('mean', 0.0), ('std', 1.0)))
    return None if mean is None or std is None else Normalisation(key, flag, mean, std, rgb)


def _three(values: Any, default: float) -> tuple[float, ...] | None:
    """Three numbers of a config, of which one stands for all."""
    given = [default] if values is None else list(values) if isinstance(values, Sequence) else []
    if len(given) not in (1, 3) or not all(isinstance(value, int | float) for value in given):
        return None
    return tuple(map(float, given * 3 if len(given) == 1 else given))


def _listed(values: Sequence[float]) -> str:
    return ', '.join(f'{round(value, 3):g}' for value in values)
