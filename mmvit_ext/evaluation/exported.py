"""The metrics and the speed of exported graphs on a config's test data."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from torch import Tensor, nn

from mmvit_ext.evaluation.loop import build_test_loader
from mmvit_ext.inference.export import OnnxGraph

__all__ = ['compare']


def compare(
    cfg: Config, model: nn.Module, graphs: Sequence[str], limit: int | None = None
) -> dict[str, dict[str, float]]:
    """The metrics of ONNX graphs on the config's test data, and the median milliseconds that each takes for an image.

    The graphs take turns at each image, so that what else the machine does slows them alike.

    Args:
        cfg: Config of a segmentor or classifier.
        model: Its model, whose preprocessing and whose way from scores to predictions are taken.
        graphs: Files.
        limit: Number of images, evenly spread; all of them by default.

    Returns:
        Metrics by file.
    """
    cfg = copy.deepcopy(cfg)
    one_by_one = dict(type='DefaultSampler', shuffle=False)
    cfg.test_dataloader.update(batch_size=1, num_workers=0, sampler=one_by_one, batch_sampler=None)
    loader = build_test_loader(cfg, images=limit)
    evaluators = {name: Evaluator(copy.deepcopy(cfg.test_evaluator)) for name in graphs}
    sessions = {name: _TimedGraph(name) for name in graphs}
    for batch in loader:
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
