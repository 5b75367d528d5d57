"""All checks of a config against its types, files and datasets, before anything is built or written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmvit_ext.checkpoints.reading import check_checkpoint_file
from mmvit_ext.config.building import build_model
from mmvit_ext.config.walking import is_pretrained, label_steps, loads_by_itself, walk
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

from .datasets import VisitedDataset, check_samples, visit_datasets
from .types import check_num_classes, check_types

__all__ = ['check_before_run', 'check_datasets', 'check_strides']

# Reading a larger annotation file twice would cost more time than an early message is worth.
_MAX_ANNOTATION_BYTES = 64 * 2**20
EDGE = 896  # of the input whose maps are measured: a multiple of every usual stride
REGIONS = ('bbox_roi_extractor', 'mask_roi_extractor')  # others may look at maps that are not the detector's


def check_before_run(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """Check a config's types, checkpoint files, class counts and the datasets of some of 'train', 'val' and 'test'.

    The scope has to be prepared. Returns a line per dataset, worth logging.
    """
    check_types(cfg, scope)
    for key, node in [('model', cfg.get('model')), *walk(cfg.get('model'), 'model.')]:
        _check_pretrained(key, node)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')
    datasets = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {dataset.key: dataset.classes for dataset in datasets})
    for dataset in datasets:
        _check_label_steps(dataset)
    notes = check_strides(cfg) if scope == 'mmdet' else []
    return [*map(str, datasets), *notes]


def _check_pretrained(key: str, node: Any) -> None:
    """Look for the checkpoint file that a part of the model names, if it does."""
    entry = 'checkpoint' if is_pretrained(node) or loads_by_itself(node) else 'pretrained'
    path = node.get(entry) if isinstance(node, Mapping) else None
    if isinstance(path, str) and path != 'timm' and not is_remote(path):
        section = key if key.endswith('init_cfg') else f'{key}.{entry}'
        remedy = f'put it there, or start from random weights with --cfg-options {section}=None'
        check_checkpoint_file(path, f'pretrained checkpoint ({key}.{entry})', remedy)


def _check_label_steps(dataset: VisitedDataset) -> None:
    """Refuse a label loader that says something else than its dataset, which it follows where it says nothing."""
    said = {
        'reduce_zero_label': getattr(dataset.built, 'reduce_zero_label', None),
        'num_classes': len(dataset.classes) if dataset.classes else None,
    }
    steps = dataset.config.get('pipeline') or []
    for step in label_steps(steps):
        for name, expected in said.items():
            if None not in (expected, step.get(name)) and step[name] != expected:
                place = f'{dataset.key}.pipeline.{steps.index(step)}.{name}'
                fault = f'{place} is {step[name]} but the dataset {dataset.key} has {expected}'
                raise UserError(f'{fault}: leave {name} out of the pipeline, it follows the dataset')


def check_datasets(cfg: Config, splits: Sequence[str]) -> list[VisitedDataset]:
    """Check the datasets of the given splits as far as that is quick; ``UserError`` names path and key to change."""
    datasets = list(visit_datasets(cfg, splits))
    for dataset in datasets:
        if dataset.built is not None and dataset.local:
            file = dataset.ann_file
            small = os.path.isfile(file) and os.path.getsize(file) <= _MAX_ANNOTATION_BYTES
            if small or 'seg_map_path' in dataset.folders:
                check_samples(dataset)
    return datasets


def _expected_strides(model: nn.Module) -> Iterator[tuple[str, list[tuple]]]:
    """The strides that parts of a detector are made for, with the dotted keys of these parts."""
    for name, module in model.named_modules():
        strides = getattr(getattr(module, 'prior_generator', None), 'strides', None)
        key = f'model.{name}.{"anchor" if hasattr(module, "anchor_generator") else "prior"}_generator'
        if strides is None and any(part in name.split('.') for part in REGIONS):
            strides, key = getattr(module, 'featmap_strides', None), f'model.{name}.featmap_strides'
        pairs = [tuple(stride) if isinstance(stride, list | tuple) else (stride, stride) for stride in strides or []]
        if pairs and all(float(edge).is_integer() for pair in pairs for edge in pair):  # others fit one image size only
            yield key, pairs


def check_strides(cfg: Config) -> list[str]:
    """Refuse maps, behind the neck, of other strides than the anchors, points and regions; returns lines to log.

    They train without an error: on maps of stride 16 the anchors of stride 4 cover a part of the image.
    """
    try:
        model: Any = build_model(cfg, device='meta', training=True).eval()
        mean = getattr(model.data_preprocessor, 'mean', None)
        image = torch.zeros(1, 3 if mean is None else len(mean), EDGE, EDGE, device='meta')
        expected = dict(_expected_strides(model))
        with torch.no_grad():
            maps = model.extract_feat(image) if expected else []
        found = [(round(EDGE / x.shape[-1]), round(EDGE / x.shape[-2])) for x in maps]
    except Exception as error:  # an operator may not know the device meta; what is wrong here the run finds again
        return [f'the strides of the maps were not compared with those of anchors and regions: {type(error).__name__}']
    for key, strides in expected.items():
        if found[: len(strides)] != strides:
            made, have = (', '.join(str(x) if x == y else f'{x}x{y}' for x, y in maps) for maps in (strides, found))
            if given := getattr(model.backbone, 'out_strides', None):
                have += f', the backbone gives {", ".join(map(str, given))}'
            raise UserError(
                f'{key} is made for maps of the strides {made}, but its maps have the strides {have}: put '
                "dict(type='mmvit_ext.PlainPyramid', in_channels=...) behind the backbone, which makes strides 4 to 32 "
                'of one, or set the strides to those of the maps'
            )
    return []
