"""Hooks of every run that report what it does, and stop where it would do something else without a word."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmvit_ext.checkpoints.report import LoadObserver, WeightsReport, check_report
from mmvit_ext.checks.before_run import batch_size_of
from mmvit_ext.config.walking import is_pretrained
from mmvit_ext.datasets.label_range import labels_outside, range_error
from mmvit_ext.errors import UserError
from mmvit_ext.registry import HOOKS

__all__ = ['BatchSizeHook', 'LabelRangeHook', 'MetricsHook', 'SkippedSamplesHook', 'WeightsReportHook', 'bare_model']


def bare_model(model: nn.Module) -> Any:
    """A runner's model without what distributes it or merges its views."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def _pretrained_configs(module: nn.Module) -> list[Mapping[str, Any]]:
    configs = getattr(module, 'init_cfg', None) or []
    return [entry for entry in ([configs] if isinstance(configs, Mapping) else configs) if is_pretrained(entry)]


@HOOKS.register_module()
class WeightsReportHook(Hook):
    """Reports what of each checkpoint reached the model, and refuses one that does not belong to it.

    It watches the loading itself, see :class:`mmvit_ext.checkpoints.report.LoadObserver`. Pretrained weights and
    ``load_from`` of a training run have to fill at least half of what they are loaded into; a checkpoint that is
    resumed or tested has to fit entirely.

    Args:
        allow_partial: Only report.
    """

    priority = 'LOWEST'  # after EMAHook, which copies the model before the run

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial
        self._observer: LoadObserver | None = None
        self._loaded: set[str] = set()
        self._whole_model_source: str | None = None
        self._strict = False

    def before_run(self, runner: Runner) -> None:
        self._logger, self._model = runner.logger, bare_model(runner.model)
        self._observer = LoadObserver(self._model, self._on_load)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Note that the next loading is that of ``load_from`` or ``resume``, and look at the file's content."""
        testing = runner._train_loop is None
        resuming = bool(runner._resume) and not testing
        source = self._whole_model_source = f'the checkpoint {runner._load_from or "that last_checkpoint names"}'
        self._strict = testing or resuming
        if not isinstance(checkpoint, Mapping):
            raise UserError(f'{source} holds a {type(checkpoint).__name__}: expected a dictionary of parameters')
        absent = [key for key in ('meta', 'message_hub', 'optimizer') if not isinstance(checkpoint.get(key), Mapping)]
        absent = absent or [key for key in ('epoch', 'iter') if not isinstance(checkpoint['meta'].get(key), int)]
        if resuming and absent:
            reason = f'it has no {", ".join(absent)}: it holds weights only, or is of a version that is not known here'
            remedy = 'start from its weights with --cfg-options load_from=FILE'
            raise UserError(f'{source} cannot be resumed, {reason}; {remedy}')

    def before_train(self, runner: Runner) -> None:
        """Name pretrained weights that nothing loaded, and stop watching."""
        for name, module in self._model.named_modules():
            for config in _pretrained_configs(module):
                if name not in self._loaded:
                    weights = f'pretrained weights of {name or "the model"} ({config.get("checkpoint")})'
                    reason = f'{type(module).__name__} does not use its init_cfg'
                    runner.logger.warning(f'{weights} were not loaded: {reason}')
        self._close()

    def _close(self, runner: Runner | None = None) -> None:
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    before_test = before_val = _close

    def _on_load(self, name: str, module: nn.Module, report: WeightsReport) -> None:
        self._loaded.add(name)
        files = ' and '.join(str(config.get('checkpoint')) for config in _pretrained_configs(module))
        source = f'the pretrained checkpoint {files}' if files else 'a checkpoint loaded by the model'
        target, strict = name or 'the model', False
        if not name and self._whole_model_source is not None:
            source, target, strict = self._whole_model_source, 'the model of this config', self._strict
            self._whole_model_source = None
        self._logger.info(f'weights: {source} -> {target}: {report}')
        check_report(report, source, target, strict=strict, allow_partial=self.allow_partial)
        if not report.exact and not strict and (report.missing or report.mismatched or report.failed):
            count = report.total - len(report.matched)
            self._logger.warning(f'weights: {count} parameters of {target} keep their random start')


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Logs total batch size and learning rate against the recipe's ``auto_scale_lr.base_batch_size``."""

    def before_train(self, runner: Runner) -> None:
        if size := batch_size_of(runner.cfg, runner.world_size):
            runner.logger.info(str(size))
            if warning := size.warning():
                runner.logger.warning(warning)


@HOOKS.register_module()
class MetricsHook(Hook):
    """Warns of metrics that are not finite, and of a ``save_best`` that is none of the metrics of the validation.

    mmengine ends the run at its first validation then. Here it continues, without a best checkpoint.
    """

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        kinds = int | float | np.number | torch.Tensor
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, kinds) and np.ndim(v) == 0}
        if wrong := [f'{name} = {value}' for name, value in numbers.items() if not np.isfinite(float(value))]:
            runner.logger.warning(f'metrics that are not finite: {", ".join(wrong)}')

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Look at the metrics before the checkpoint hook, which is later, uses them."""
        self.after_test_epoch(runner, metrics)
        for hook in [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.save_best]:
            absent = ', '.join(key for key in hook.key_indicators if key != 'auto' and key not in (metrics or {}))
            if absent:
                hook.save_best = None
                given = f'the metrics of the validation are {", ".join(metrics or ["none"])}; set it to one of them'
                reason = f'default_hooks.checkpoint.save_best names {absent}'
                runner.logger.error(f'no best checkpoint is saved: {reason}, {given}')


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Reports at each checkpoint and at the end how many samples :class:`mmvit_ext.SkipBadSamples` has left out."""

    def __init__(self) -> None:
        self._told = 0

    def after_train(self, runner: Runner, checkpoint: dict | None = None) -> None:
        count = _count_skipped(runner.train_dataloader.dataset)
        if count > self._told:
            runner.logger.warning(f'{count} bad samples of the training data were left out so far')
        self._told = count

    before_save_checkpoint = after_train


def _count_skipped(dataset: Any) -> int:
    if hasattr(dataset, 'num_skipped'):  # of the dataset itself, or handed on by a wrapper around it
        return dataset.num_skipped
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    return sum(_count_skipped(part) for part in inner if part is not None)


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Stops a segmentation run at the first label outside the classes, whatever transform loaded it.

    Without it the loss fails with an error that names no file, and the metric leaves the pixels out without a word. It
    looks at what :func:`mmvit_ext.datasets.collate_labels` has found in the data loader's workers, and at all pixels
    where nothing has.

    Args:
        ignore_index: Value of pixels without a label.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes: Sequence[str] | None = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if not classes or not isinstance(data_batch, Mapping):
            return
        for sample in data_batch.get('data_samples') or []:
            labels = getattr(sample, 'gt_sem_seg', None)
            if labels is None:  # one level deeper with test-time augmentation, or no labels at all
                continue
            info = sample.metainfo
            counted = info.get('classes_present')
            if counted is not None and all(value < len(classes) for value in counted):
                continue
            if wrong := labels_outside(labels.data, len(classes), self.ignore_index):
                where = info.get('seg_map_path') or f'of {info.get("img_path", "an unnamed image")}'
                expected = f'0 to {len(classes) - 1} after loading, {self.ignore_index} = ignored'
                remedy = "correct the file, the dataset's classes or its reduce_zero_label"
                raise range_error(where, wrong, len(classes), expected, remedy)
