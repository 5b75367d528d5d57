"""Measure a loaded model repeatedly on changed data, without a runner for each time."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmvit_ext.config.adjust import WORKER_TIMEOUT
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.machine import progress_bar

__all__ = ['build_test_loader', 'evaluate', 'markdown_table']


def build_test_loader(cfg: Config, *, images: int | None = None, last_step: Mapping[str, Any] | None = None) -> Any:
    """The test data loader of a config, with a ``last_step`` before the one that packs.

    Of ``images`` that are evenly spread over the dataset, since folders of classes are read one class after the other.
    """
    loader = copy.deepcopy(cfg.get('test_dataloader'))
    if not loader or cfg.get('test_evaluator') is None:
        raise UserError('the config has no test_dataloader or no test_evaluator: add a dataset of _base_/datasets')
    loader.update(persistent_workers=False, timeout=WORKER_TIMEOUT if loader.get('num_workers') else 0)
    if cfg.get('default_scope') == 'mmpretrain':
        loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if images is not None:
        number = len(DATASETS.build(dataset))
        dataset.indices = np.linspace(0, number - 1, min(images, number)).round().astype(int).tolist()
    if last_step is not None:
        dataset.pipeline = [*dataset.pipeline[:-1], ConfigDict(last_step), dataset.pipeline[-1]]
    return Runner.build_dataloader(loader)


@torch.no_grad()
def evaluate(
    predictor: Predictor, loader: Any, metrics: Any, *, title: str = 'measuring', on_batch: Callable | None = None
) -> dict[str, float]:
    """Run a model over a data loader and compute the metrics that are single numbers.

    ``on_batch`` is called with each batch and its outputs.
    """
    # mmseg's metric writes a table of all classes to the log each time.
    if not MMLogger.check_instance_created('mmvit_ext_quiet'):
        MMLogger.get_instance('mmvit_ext_quiet', logger_name='mmvit_ext_quiet', log_level='ERROR')
    model: Any = predictor.model
    evaluator = Evaluator(copy.deepcopy(metrics))
    evaluator.dataset_meta = loader.dataset.metainfo
    with progress_bar(title) as bar:
        for batch in bar.track(loader):
            outputs = model.test_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            if on_batch is not None:
                on_batch(batch, outputs)
    metrics = evaluator.evaluate(len(loader.dataset))
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}


def markdown_table(*rows: Sequence[str]) -> str:
    """Rows of cells as a Markdown table, whose first one has the titles."""
    titles, *lines = ('| ' + ' | '.join(cells) + ' |' for cells in rows)
    return '\n'.join([titles, '|' + '---|' * len(rows[0]), *lines])
