"""Steps of pipelines in a config, and those that load labels among them."""

from collections.abc import Mapping
from typing import Any

__all__ = ['label_steps', 'step_name', 'without_labels']

_LABEL_LOADERS = ('LoadAnnotations', 'LoadSegAnnotations', 'LoadBoxes')


def step_name(step: Mapping[str, Any]) -> str:
    """The type of a step as text, with its scope where it has one."""
    kind = step.get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


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
