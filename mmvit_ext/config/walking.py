"""Walk over the parts of a config: datasets, heads, steps of pipelines, nodes by dotted key."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

__all__ = ['is_pretrained', 'iter_dataset_cfgs', 'iter_heads', 'label_steps', 'loads_by_itself', 'step_name', 'walk']
__all__ += ['without_labels']

_HEAD_PATHS = {
    'mmseg': ('decode_head', 'auxiliary_head'),
    'mmdet': ('bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head'),
    'mmpretrain': ('head',),
}

_LABEL_LOADERS = ('LoadAnnotations', 'LoadSegAnnotations', 'LoadPanopticAnnotations', 'LoadBoxes')


def iter_dataset_cfgs(node: Any, key: str, leaves: bool = True) -> Iterator[tuple[str, Any]]:
    """The dataset configs in a node, whose dotted key is given, with their keys; wrappers too unless ``leaves``."""
    if isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from iter_dataset_cfgs(entry, f'{key}.{index}', leaves)
    elif isinstance(node, Mapping):
        inner = [name for name in ('dataset', 'datasets') if name in node]
        if not inner or not leaves:
            yield key, node
        for name in inner:
            yield from iter_dataset_cfgs(node[name], f'{key}.{name}', leaves)


def iter_heads(cfg: Config, scope: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The heads that predict classes, with their dotted keys."""
    for dotted in _HEAD_PATHS.get(scope, ()):
        heads: Any = cfg.get('model')
        for part in dotted.split('.'):
            heads = heads.get(part) if isinstance(heads, Mapping) else None
        many = isinstance(heads, list | tuple)
        for index, head in enumerate(heads if many else [heads]):
            if isinstance(head, Mapping):
                yield f'model.{dotted}' + (f'.{index}' if many else ''), head


def walk(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Every entry below a section or list, with its dotted key."""
    sections = isinstance(node, Mapping | Config)
    for name, entry in node.items() if sections else enumerate(node if isinstance(node, list | tuple) else ()):
        yield f'{prefix}{name}', entry
        yield from walk(entry, f'{prefix}{name}.')


def step_name(step: Mapping[str, Any]) -> str:
    """The type of a step as text, with its scope where it has one."""
    kind = step.get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def is_pretrained(node: Any) -> bool:
    """Whether a node is an ``init_cfg`` that loads a checkpoint, its type as text or as class."""
    return isinstance(node, Mapping) and step_name(node).rpartition('.')[2] in ('Pretrained', 'PretrainedInit')


def loads_by_itself(node: Any) -> bool:
    """Whether a node is a backbone whose own argument ``checkpoint`` names pretrained weights."""
    return isinstance(node, Mapping) and bool(node.get('checkpoint')) and step_name(node).endswith('TimmViT')


def _loads_labels(step: Any) -> bool:
    return isinstance(step, Mapping) and any(loader in step_name(step) for loader in _LABEL_LOADERS)


def label_steps(pipeline: Any) -> list[Mapping[str, Any]]:
    """The steps of a pipeline that load labels, those of several views left aside."""
    return [step for step in pipeline or [] if _loads_labels(step)]


def without_labels(pipeline: Any) -> Any:
    """A pipeline without the steps that load labels, at any depth: several views have pipelines of their own."""
    if isinstance(pipeline, Mapping):
        return {key: without_labels(value) for key, value in pipeline.items()}
    if isinstance(pipeline, list | tuple):
        kept = [without_labels(step) for step in pipeline if not _loads_labels(step)]
        return type(pipeline)(step for step in kept if not (isinstance(step, list) and not step))
    return pipeline
