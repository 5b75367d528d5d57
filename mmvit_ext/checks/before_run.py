"""All checks of a config against its types, files and datasets, before anything is built or written."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from mmvit_ext.checkpoints.reading import check_checkpoint_file
from mmvit_ext.config.building import build_model
from mmvit_ext.config.walking import is_pretrained, iter_dataset_cfgs, iter_heads, label_steps, loads_by_itself, walk
from mmvit_ext.errors.type_names import find_type, root_registry, unknown_type_message
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

from .datasets import VisitedDataset, check_samples, visit_datasets

__all__ = ['BatchSize', 'batch_size_of', 'check_before_run', 'check_datasets', 'check_num_classes', 'check_strides']
__all__ += ['check_types']

# Reading a larger annotation file twice would cost more time than an early message is worth.
_MAX_ANNOTATION_BYTES = 64 * 2**20
EDGE = 896  # of the input whose maps are measured: a multiple of every usual stride
REGIONS = ('bbox_roi_extractor', 'mask_roi_extractor')  # others may look at maps that are not the detector's
_MODEL_PARTS = re.compile(r'^(backbone|neck|data_preprocessor|loss\w*|\w*head)$')
_REGISTRIES = {
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), 'metric'),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg'), 'loop'),
    **{name: name for name in ('visualizer', 'optim_wrapper')},
    **{'custom_hooks': 'hook', 'param_scheduler': 'parameter scheduler'},
}
TypeEntry = tuple[str, Any, str, str | None]


def check_before_run(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """Check a config, its scope prepared, and the datasets of some splits; returns a line per dataset, for the log."""
    check_types(cfg, scope)
    for key, node in [('model', cfg.get('model')), *walk(cfg.get('model'), 'model.')]:
        entry = 'checkpoint' if is_pretrained(node) or loads_by_itself(node) else 'pretrained'
        path = node.get(entry) if isinstance(node, Mapping) else None
        if isinstance(path, str) and path != 'timm' and not is_remote(path):
            whole = re.fullmatch(r'(.*init_cfg)(\.\d+)?', key)
            section = whole[1] if whole else f'{key}.{entry}'
            remedy = f'put it there, or start from random weights with --cfg-options {section}=None'
            check_checkpoint_file(path, f'pretrained checkpoint ({key}.{entry})', remedy)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')
    datasets = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {dataset.key: dataset.classes for dataset in datasets})
    for dataset in datasets:
        _check_label_steps(dataset)
    notes = check_strides(cfg) if scope == 'mmdet' else []
    return [*map(str, datasets), *notes]


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
    """Refuse maps of other strides than the anchors, points and regions, which train badly; returns lines to log."""
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


def _iter_types(cfg: Config) -> Iterator[TypeEntry]:
    """(dotted key, type, registry name, scope) of the places whose registry is known for certain."""
    for key, node in [('model', cfg.get('model')), *walk(cfg.get('model'), 'model.')]:
        name = next(part for part in reversed(key.split('.')) if not part.isdigit())
        # Only the parts that every library builds from MODELS: nested entries such as nms=dict(type='nms') or
        # roi_layer=dict(type='RoIAlign') are looked up elsewhere and must not be reported.
        if isinstance(node, Mapping) and 'type' in node and (key == 'model' or _MODEL_PARTS.match(name)):
            yield f'{key}.type', node['type'], 'model', node.get('_scope_')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            for key, dataset in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset', leaves=False):
                yield f'{key}.type', dataset.get('type'), 'dataset', dataset.get('_scope_')
                yield from _iter_list_types(dataset.get('pipeline'), f'{key}.pipeline', 'transform')
            yield from _iter_list_types(loader.get('sampler'), f'{split}_dataloader.sampler', 'data sampler')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _iter_list_types(hook, f'default_hooks.{name}', 'hook')
    for key, registry in _REGISTRIES.items():
        yield from _iter_list_types(cfg.get(key), key, registry)
    if isinstance(cfg.get('optim_wrapper'), Mapping):
        yield from _iter_list_types(cfg.optim_wrapper.get('optimizer'), 'optim_wrapper.optimizer', 'optimizer')


def _iter_list_types(node: Any, key: str, registry: str) -> Iterator[TypeEntry]:
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, entry in enumerate(node):
            yield from _iter_list_types(entry, f'{key}.{index}', registry)
    elif isinstance(node, Mapping):
        if 'type' in node:
            yield f'{key}.type', node['type'], registry, node.get('_scope_')
        if registry == 'transform':
            yield from _iter_list_types(node.get('transforms'), f'{key}.transforms', registry)


def check_types(cfg: Config, scope: str) -> None:
    """Find type names that no registry knows, which mmengine reports minutes into a run; names the nearest ones."""
    for key, name, registry_name, own_scope in _iter_types(cfg):
        root = root_registry(registry_name)
        if isinstance(name, str) and root is not None and find_type(name, root, own_scope or scope) is None:
            raise UserError(unknown_type_message(name, registry_name, own_scope or scope, where=key))


def _check_binary(key: str, head: Mapping[str, Any], count: int) -> None:
    """Refuse what gives a constant: one class, of which each pixel is, and a softmax over one map."""
    losses = head.get('loss_decode') or [{}]
    losses = [losses] if isinstance(losses, Mapping) else losses
    softmax = any('CrossEntropyLoss' in str(loss.get('type', 'CrossEntropyLoss')) for loss in losses)
    softmax = softmax and not any(loss.get('use_sigmoid') for loss in losses)
    if count == 1 or (head.get('out_channels') == 1 and softmax):
        found = 'num_classes is 1' if count == 1 else 'out_channels is 1 with a softmax over it as loss'
        raise UserError(
            f'{key}.{found}, so that every pixel gets the same label: for one kind of object set num_classes=2 and the '
            "classes ('background', NAME); mmseg's heads may have out_channels=1 and loss_decode.use_sigmoid=True then"
        )


def check_num_classes(cfg: Config, scope: str, classes: Mapping[str, Sequence[str] | None]) -> None:
    """Compare every head's ``num_classes`` with the class names of every dataset, by its dotted key, where known."""
    for head_key, head in iter_heads(cfg, scope):
        count = head.get('num_classes')
        if not isinstance(count, int):
            continue
        if scope == 'mmseg':
            _check_binary(head_key, head, count)
        for dataset_key, names in classes.items():
            if names is not None and len(names) != count:
                shown = ', '.join(map(str, names[:3])) + (', ...' if len(names) > 3 else '')
                fault = f'{head_key}.num_classes is {count} but {dataset_key} has {len(names)} classes ({shown})'
                raise UserError(f'{fault}: set num_classes={len(names)} or use the dataset with {count} classes')


class BatchSize(NamedTuple):
    """What one optimiser step sees, beside what the recipe's learning rate was chosen for."""

    processes: int  # GPUs
    per_process: int  # images per process and forward pass
    accumulation: int  # forward passes per optimiser step
    base: int | None  # the recipe's total batch size, None when the config does not state it
    lr: float | None  # in the config, None when it does not state one
    scaled: bool  # whether mmengine scales the learning rate to the batch size (--auto-scale-lr)

    @property
    def total(self) -> int:
        return self.processes * self.per_process * self.accumulation

    @property
    def factor(self) -> float | None:
        return self.total / self.base if self.base else None

    @property
    def used_lr(self) -> float | None:
        """The learning rate that training starts from; mmengine's scaling leaves the accumulation out."""
        if self.lr is None or not self.scaled or not self.base:
            return self.lr
        return self.lr * self.processes * self.per_process / self.base

    def __str__(self) -> str:
        parts = f'{self.processes} processes x {self.per_process} images x {self.accumulation} accumulated'
        text = f'total batch size {self.total} = {parts}'
        text += f', recipe {self.base}' if self.base else ', recipe unknown (no auto_scale_lr.base_batch_size)'
        if self.used_lr is not None:
            text += f', learning rate {self.used_lr:g}'
            if self.scaled and self.used_lr != self.lr:
                text += f' (scaled from {self.lr:g})'
        return text

    def warning(self) -> str | None:
        """A warning for a batch size and learning rate that do not belong together, ``None`` when they do."""
        if self.factor is None or self.lr is None or (self.accumulation if self.scaled else self.factor) == 1:
            return None
        fitting = f'{self.lr * self.factor:g}'
        if self.scaled:
            fault = f'--auto-scale-lr leaves the {self.accumulation} accumulated passes out'
            return f'{fault}: the learning rate is {self.used_lr:g}, a total batch size of {self.total} needs {fitting}'
        fault = (
            f"the total batch size is {self.factor:g} times the recipe's {self.base}, but the learning rate {self.lr:g}"
        )
        option = f'pass --auto-scale-lr to use {fitting}' if self.accumulation == 1 else f'set it to {fitting}'
        remedy = f'{option}, or change train_dataloader.batch_size or accumulative_counts'
        return f'{fault} belongs to {self.base}: {remedy}'


def batch_size_of(cfg: Config, processes: int) -> BatchSize | None:
    """Read the batch size of a run with so many processes from a config, ``None`` when it does not state one."""
    loader = cfg.get('train_dataloader') or {}
    per_process = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size')
    if not isinstance(per_process, int):
        return None
    scaling = cfg.get('auto_scale_lr') or {}
    wrapper = cfg.get('optim_wrapper') or {}
    lr = (wrapper.get('optimizer') or {}).get('lr')
    rate = float(lr) if isinstance(lr, int | float) else None
    parts = [part for part in (wrapper, *wrapper.values()) if isinstance(part, Mapping)]  # one for each optimizer
    accumulation = math.lcm(*(int(part.get('accumulative_counts', 1)) for part in parts))
    scaled = bool(scaling.get('enable', False))
    return BatchSize(processes, per_process, accumulation, scaling.get('base_batch_size'), rate, scaled)
