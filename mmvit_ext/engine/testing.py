"""Test a checkpoint with the metrics of a config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import METRICS

from mmvit_ext.checks.before_run import check_before_run
from mmvit_ext.checks.normalisation import check_normalisation
from mmvit_ext.config.adjust import set_show_dir, set_tta
from mmvit_ext.config.building import discard_pretrained
from mmvit_ext.config.walking import step_name
from mmvit_ext.engine.hooks.progress import ProgressHook
from mmvit_ext.engine.hooks.reports import MetricsHook, WeightsReportHook, bare_model
from mmvit_ext.engine.runner import build_runner, load_run, running
from mmvit_ext.errors import UserError, same_on_every_process
from mmvit_ext.files import atomic_path, writable_folder
from mmvit_ext.inference.speed import speed_up
from mmvit_ext.machine import float32_products

__all__ = ['test']

PICKLES = ('.pkl', '.pickle')

# A test needs no training parts, and building their datasets would ask for data that may not be there.
UNUSED = 'train_dataloader train_cfg optim_wrapper param_scheduler auto_scale_lr val_dataloader val_cfg val_evaluator'


def test(
    config: str,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    tta: bool = False,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    amp: bool = False,
    compile: bool = False,
    tf32: bool = True,
    launcher: str = 'none',
    allow_partial: bool = False,
    trust: bool = False,
) -> dict[str, float]:
    """Test a checkpoint; returns the metrics by name.

    Args:
        config: The config file.
        checkpoint: The checkpoint file.
        work_dir: Folder of the logs; by default ``work_dirs/NAME_OF_THE_CONFIG``.
        tta: Test-time augmentation, as the config's ``tta_pipeline`` says.
        out: ``FILE.json`` for the metrics, ``FILE.pkl`` for the predictions, with mmseg a folder for label maps.
        show_dir: Folder for pictures with the predictions drawn in.
        cfg_options: Overrides of the config by dotted key.
        amp: Mixed precision for backbone and neck: bfloat16, on GPUs without it float16.
        compile: Compile the backbone with ``torch.compile``.
        tf32: Whether a GPU may multiply what stays in float32 with 10 bits of the mantissa.
        launcher: How distributed processes were started: 'none', 'pytorch', 'slurm' or 'mpi'.
        allow_partial: Only report when the checkpoint does not fit the model.
        trust: Read a checkpoint that holds more than tensors and plain values, which runs code from it.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    with same_on_every_process():
        sections = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')
        cfg = load_run(config, cfg_options, 'test', sections, work_dir, launcher)
        cfg.load_from, cfg.resume = checkpoint, False
        warnings = check_normalisation(cfg, cfg.default_scope, 'test')
        discard_pretrained(cfg.model)
        if out:
            _set_out(cfg, Path(out))
        if show_dir:
            set_show_dir(cfg, show_dir)
        notes = check_before_run(cfg, cfg.default_scope, ['test'])
        if tta:
            set_tta(cfg)
        for key in UNUSED.split():
            cfg.pop(key, None)
    # Not the work folder: a checkpoint may be tested while its training continues there.
    folders = {'--out': None if Path(out or '').suffix else out, '--show-dir': show_dir}
    with running(launcher, folders), float32_products(tf32=tf32), ProgressHook() as progress:
        hooks = [WeightsReportHook(allow_partial), MetricsHook(), progress]
        runner = build_runner(cfg, hooks, notes, warnings, trust=trust)
        model = bare_model(runner.model)
        speed_up(model, next(model.parameters()).device, amp=amp, compile=compile)
        runner.hooks[:] = [hook for hook in runner.hooks if not _is_for_training(hook)]
        if out and out.endswith(PICKLES):
            dumper = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
            runner.test_evaluator.metrics.append(METRICS.build({'type': dumper, 'out_file_path': out}))
        metrics = runner.test()
        if out and out.endswith('.json') and runner.rank == 0:
            with atomic_path(out) as file:
                file.write_text(json.dumps(metrics, indent=2, default=_plain))
    return metrics


def _is_for_training(hook: Hook) -> bool:
    """Whether a hook has something to do in training or validation only; some of these ask for the training loop."""
    stages = ' '.join(hook.get_triggered_stages())
    return ('_train' in stages or '_val' in stages) and '_test' not in stages and '_load' not in stages


def _plain(value: Any) -> Any:
    """What a JSON file has of a metric: of tensors and arrays their numbers, of anything else its text."""
    return value.tolist() if hasattr(value, 'tolist') else str(value)


def _writes_labels(evaluator: Mapping[str, Any]) -> bool:
    kind = step_name(evaluator).rpartition('.')[2]
    return kind.endswith('IoUMetric') and kind != 'TrimapIoUMetric'


def _set_out(cfg: Config, path: Path) -> None:
    if path.suffix in ('.json', *PICKLES):
        if path.is_dir():
            raise UserError(f'--out {path} is a folder: expected a file name for {path.suffix}')
        writable_folder(path.parent, '--out, folder')
    elif cfg.default_scope == 'mmseg' and not path.suffix:
        writable_folder(path, '--out')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        writers = [evaluator for evaluator in evaluators if _writes_labels(evaluator)]
        if not writers:
            raise UserError(f"--out {path}: a folder of label maps needs dict(type='IoUMetric') in test_evaluator")
        for evaluator in writers:
            evaluator.output_dir = str(path)
    else:
        raise UserError(
            f'--out {path}: expected .json for metrics, .pkl for predictions, with mmseg a folder for labels'
        )
