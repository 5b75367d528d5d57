"""An exported graph in integers of 8 bit for a CPU, and its metrics and speed beside those of the float graph."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path

from .export import OnnxGraph

__all__ = ['compare', 'quantise']


CALIBRATION_IMAGES = 32


def quantise(cfg: Config, model: nn.Module, source: str | Path, target: str | Path) -> None:
    """Write an ONNX graph whose layers multiply integers of 8 bit.

    The range of what a layer takes is measured on the first images of a fixed order of the config's training data, or
    of its test data where it has no other, prepared as those of a test.
    """
    try:
        from onnxruntime import quantization  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError('--int8 needs onnxruntime and onnx: pip install onnxruntime onnx') from error

    class Images(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {name: prepared(batch, False)['inputs'].numpy()}

    prepared: Any = model.data_preprocessor
    loader = _loader(cfg, 'train' if cfg.get('train_dataloader') else 'test')
    batches, name = islice(loader, CALIBRATION_IMAGES), OnnxGraph(source).input
    with atomic_path(target) as file:
        quantization.quantize_static(
            str(source),
            str(file),
            Images(),
            per_channel=True,
            op_types_to_quantize=['MatMul', 'Gemm', 'Conv'],
            extra_options={'MatMulConstBOnly': True},
        )


def compare(
    cfg: Config, model: nn.Module, graphs: Sequence[str], limit: int | None = None
) -> dict[str, dict[str, float]]:
    """The metrics of ONNX graphs on the config's test data, and the median milliseconds that each takes for an image.

    The graphs take turns at each image, so that what else the machine does slows them alike.

    Args:
        cfg: Config of a segmentor or classifier.
        model: Its model, whose preprocessing and whose way from scores to predictions are taken.
        graphs: Files.
        limit: Number of images; all of them by default.

    Returns:
        Metrics by file.
    """
    loader = _loader(cfg, 'test')
    evaluators = {name: Evaluator(copy.deepcopy(cfg.test_evaluator)) for name in graphs}
    sessions = {name: _TimedGraph(name) for name in graphs}
    for batch in islice(loader, limit):
        for name, session in sessions.items():
            session.seconds.append(0.0)
            _score_by(model, session)
            with torch.no_grad():
                samples = model.test_step(copy.deepcopy(batch))  # type: ignore[operator]
            evaluators[name].dataset_meta = loader.dataset.metainfo  # type: ignore[attr-defined]
            evaluators[name].process(data_samples=samples, data_batch=batch)
    return {
        name: {
            **evaluator.evaluate(len(sessions[name].seconds)),
            'ms an image': 1000 * statistics.median(sessions[name].seconds),
        }
        for name, evaluator in evaluators.items()
    }


class _TimedGraph(OnnxGraph):
    """Gives its first output, and adds the time that it takes to the last of ``seconds``."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.seconds: list[float] = []

    def __call__(self, img: Tensor) -> Any:
        start = time.perf_counter()
        scores, *_ = super().__call__(img)
        self.seconds[-1] += time.perf_counter() - start
        return scores


def _score_by(model: Any, graph: Callable[[Tensor], Tensor]) -> None:
    """Have a graph take the place of a model's networks, from the normalised image to the scores."""
    if hasattr(model, 'decode_head'):
        model.encode_decode = lambda inputs, _: graph(inputs)
    else:
        model.extract_feat = graph
        model.head.forward = lambda scores: scores


def _loader(cfg: Config, split: str) -> DataLoader:
    """The images of a split one by one, prepared as those of a test, those of the training in a fixed random order."""
    named = copy.deepcopy(cfg[f'{split}_dataloader'])
    (_, tested), *_ = iter_dataset_cfgs(cfg.test_dataloader.dataset, 'test')
    for _, dataset in iter_dataset_cfgs(named.dataset, split):
        dataset['pipeline'] = copy.deepcopy(tested['pipeline'])
    loader = {name: named[name] for name in ('dataset', 'collate_fn') if name in named}
    sampler = dict(type='DefaultSampler', shuffle=split == 'train', seed=0)
    return Runner.build_dataloader({**loader, 'sampler': sampler, 'batch_size': 1, 'num_workers': 0})
