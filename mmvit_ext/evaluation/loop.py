"""Measure a loaded model repeatedly on changed data, without a runner for each time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.machine import progress_bar

__all__ = ['build_test_loader', 'evaluate']

OnBatch = Callable[[Any, Any], None]


def build_test_loader(cfg: Config, *, images: int | None = None, last_step: Mapping[str, Any] | None = None) -> Any:
    """Build the test data loader of a config.

    Args:
        cfg: The config, its scope prepared.
        images: How many images, the first ones; all when not given.
        last_step: Config of a transform that is put in front of the one that packs.

    Returns:
        The data loader.

    Raises:
        UserError: The config has no test data.
    """
    loader = copy.deepcopy(cfg.get('test_dataloader'))
    if not loader or cfg.get('test_evaluator') is None:
        raise UserError('the config has no test_dataloader or no test_evaluator: add a dataset of _base_/datasets')
    loader.update(persistent_workers=False)
    if cfg.get('default_scope') == 'mmpretrain':
        loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if images is not None:
        dataset.indices = images
    if last_step is not None:
        dataset.pipeline = [*dataset.pipeline[:-1], ConfigDict(last_step), dataset.pipeline[-1]]
    return Runner.build_dataloader(loader)


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    loader: Any,
    metrics: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    title: str = 'measuring',
    on_batch: OnBatch | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Run a model over a data loader and compute metrics.

    Args:
        predictor: The model.
        loader: The data loader.
        metrics: Configs of the metrics, as in ``test_evaluator``.
        title: Stands before the progress bar.
        on_batch: Called with each batch and the model's answer to it.
        progress: Whether to show that bar on stderr.

    Returns:
        The results by name.
    """
    # mmseg's metric writes a table of all classes to the log each time.
    MMLogger.get_instance('mmvit_ext_quiet', logger_name='mmvit_ext_quiet', log_level='ERROR')
    model: Any = predictor.model
    evaluator = Evaluator(copy.deepcopy(metrics))
    evaluator.dataset_meta = loader.dataset.metainfo
    with progress_bar(title, show=progress) as bar:
        for batch in bar.track(loader):
            outputs = model.test_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            if on_batch is not None:
                on_batch(batch, outputs)
    return {name: float(value) for name, value in evaluator.evaluate(len(loader.dataset)).items()}
