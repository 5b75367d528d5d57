"""Models by name: ``HEAD_BACKBONE`` for dense prediction, such as ``segvit_vit-s``; a bare backbone classifies images.

:mod:`.backbones` has a row for each backbone, :mod:`.heads` a function for each head. Nothing here imports torch.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mmvit_ext.config.zoo.backbones import BACKBONES, BackboneRow
from mmvit_ext.config.zoo.heads import HEADS
from mmvit_ext.errors.user_error import UserError

__all__ = ['LIBRARIES', 'Entry', 'entry_of', 'list_models', 'model_config', 'task_config']

LIBRARIES = {'seg': 'mmseg', 'det': 'mmdet', 'inst': 'mmdet', 'cls': 'mmpretrain'}
"""Tasks (segmentation, detection, instance segmentation, classification) and the library that trains them."""

SIZES = {'seg': (512, 512), 'det': (800, 1280), 'inst': (800, 1280), 'cls': (224, 224)}
"""Height and width in pixels at which the models of a task are counted."""


class Entry(NamedTuple):
    """A name of the zoo."""

    name: str
    head: str
    task: str
    row: BackboneRow


def _entries() -> dict[str, Entry]:
    found = {}
    for head, (task, takes, _) in HEADS.items():
        for backbone, row in BACKBONES.items():
            if takes(row):
                name = f'{head}_{backbone}' if head else backbone
                found[name] = Entry(name, head, task, row)
    return found


def list_models(pattern: str = '*') -> list[str]:
    """Names of the models whose name holds ``pattern``, or matches it where it has wildcards such as ``segvit_*-b``."""
    pattern = pattern if any(sign in pattern for sign in '*?[') else f'*{pattern}*'
    return [name for name in _entries() if fnmatchcase(name, pattern)]


def entry_of(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UserError: There is no such model; close names are told.
    """
    from mmvit_ext.errors.type_names import nearest  # imports mmengine

    entries = _entries()
    if name in entries:
        return entries[name]
    head, _, backbone = name.rpartition('_')
    if head in HEADS and backbone in BACKBONES:
        others = [name for name, entry in entries.items() if entry.head == head][:4]
        raise UserError(f'{head} does not go with {backbone}: it goes with {", ".join(others)} and others')
    close = nearest(name, list(entries), 4)
    remedy = f'did you mean {" or ".join(close)}?' if close else '`mmvit models` lists the names'
    raise UserError(f'there is no model {name!r}: {remedy}')


def model_config(
    name: str, num_classes: int, *, channels: int = 3, img_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The ``model`` of a config.

    Args:
        name: Name in the zoo.
        num_classes: Number of classes, without the background of detectors.
        channels: Image channels.
        img_size: Height and width of training images, for which position embeddings are made where a backbone stores
            them for one size.

    Raises:
        UserError: There is no such model.
    """
    entry = entry_of(name)
    row = entry.row
    parts = HEADS[entry.head].parts(row, num_classes)
    backbone = row.config(channels=channels, img_size=img_size)
    backbone.update(parts.pop('backbone'))
    if row.patch != 16 and entry.task != 'cls':  # dense heads are made for a stride of 16; timm resizes the weights
        backbone['patch_size'] = 16
    if img_size is not None and 'img_size' in parts.get('decode_head', {}):
        parts['decode_head']['img_size'] = img_size
    mean, std = row.pixels_of(channels)
    values: dict[str, Any] = dict(mean=mean, std=std)
    if entry.task == 'cls':
        preprocessor = dict(num_classes=num_classes, **values, to_rgb=channels == 3)
    elif entry.task == 'seg':
        values['bgr_to_rgb'] = channels == 3
        preprocessor = dict(type='SegDataPreProcessor', **values, pad_val=0, seg_pad_val=255)
    else:
        values['bgr_to_rgb'] = channels == 3
        masks = dict(pad_mask=True) if entry.task == 'inst' else {}
        preprocessor = dict(type='DetDataPreprocessor', **values, **masks, pad_size_divisor=32)
    return dict(type=parts.pop('type'), data_preprocessor=preprocessor, backbone=backbone, **parts)


def task_config(name: str, num_classes: int, edge: int | None = None) -> dict[str, Any]:
    """A config that a model of the zoo can predict with: model, scope and test pipeline.

    Args:
        name: Name in the zoo.
        num_classes: Number of classes.
        edge: Shorter side of an image in pixels; the size at which the model is counted when not given.
    """
    entry = entry_of(name)
    height, width = SIZES[entry.task]
    scale = (width * 5 // 3, height) if edge is None else (4 * edge, edge)
    steps = {
        'seg': [dict(type='Resize', scale=scale, keep_ratio=True), dict(type='PackSegInputs')],
        'cls': [
            dict(type='ResizeEdge', scale=scale[1] * 8 // 7, edge='short', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=scale[1]),
            dict(type='PackInputs'),
        ],
    }
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    found = steps.get(entry.task, [steps['seg'][0], dict(type='PackDetInputs', meta_keys=keys)])
    pipeline = [dict(type='LoadImageFromFile', _scope_='mmvit_ext'), *found]
    return dict(
        default_scope=LIBRARIES[entry.task],
        model=model_config(name, num_classes, img_size=None if edge is None else (edge, edge)),
        test_dataloader=dict(dataset=dict(pipeline=pipeline)),
        visualizer=dict(type='UniversalVisualizer' if entry.task == 'cls' else 'Visualizer'),
    )
