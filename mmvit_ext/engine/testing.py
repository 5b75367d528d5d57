"""Test a checkpoint with the metrics of a config."""

import argparse
import time
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

from mmvit_ext.checks.before_run import check_before_run
from mmvit_ext.config.adjust import set_tta_pipeline
from mmvit_ext.config.building import discard_pretrained
from mmvit_ext.engine.hooks.reports import WeightsReportHook
from mmvit_ext.engine.training import _build_runner, _leave_process_group, _prepare
from mmvit_ext.errors.user_error import UserError, same_on_every_process
from mmvit_ext.files import atomic_path, writable_folder

__all__ = [
    'prepare_test',
    'run_test',
]


# Testing
def prepare_test(args: argparse.Namespace) -> tuple[Config, str, list[str]]:
    """Read the config of a test run, apply the arguments and check everything.

    Args:
        args: The arguments of ``tools/test.py``.

    Returns:
        The config, its scope, and lines to log when the run has a log.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    cfg, scope = _prepare(args)
    for key in ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise UserError(f'{args.config} has no {key}: it is no test config, or lacks a base file')
    cfg.load_from, cfg.resume = args.checkpoint, False
    discard_pretrained(cfg.model)
    if args.out:
        _check_out(args.out, scope)
    if args.show_dir:
        _set_show_dir(cfg, scope, args.show_dir)
    lines = check_before_run(cfg, scope, ['test'])
    if args.tta:
        _set_tta(cfg)
    # A test needs no training parts, and building their datasets would ask for data that may not be there.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    return cfg, scope, lines


def _check_out(out: str, scope: str) -> None:
    path = Path(out)
    if path.suffix in ('.json', '.pkl', '.pickle'):
        if path.is_dir():
            raise UserError(f'--out {path} is a folder: expected a file name for {path.suffix}')
        writable_folder(path.parent, '--out, folder')
    elif scope == 'mmseg' and not path.suffix:
        writable_folder(path, '--out')
    else:
        folder = ', or a folder for label maps' if scope == 'mmseg' else ''
        raise UserError(f'--out {path}: expected .json for metrics or .pkl for predictions{folder}')


def _set_show_dir(cfg: Config, scope: str, show_dir: str) -> None:
    folder = str(writable_folder(show_dir, '--show-dir').absolute())
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not isinstance(hook, dict):
        raise UserError(
            "--show-dir needs a visualization hook in the config: add default_hooks.visualization=dict(type='...') of "
            f'{scope}'
        )
    if scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    elif scope == 'mmpretrain':
        hook.update(enable=True, out_dir=folder)
    else:
        hook.update(draw=True, interval=1)  # upstream's hook counts the interval in tests, too
        visualizer = cfg.setdefault('visualizer', ConfigDict(type='SegLocalVisualizer', name='visualizer'))
        visualizer.save_dir = folder
        # A visualizer of a known name is not built anew but returned as it was, with its old folder.
        visualizer.name = f'show_{time.monotonic_ns()}'
        visualizer.setdefault('vis_backends', [ConfigDict(type='LocalVisBackend')])


def _set_tta(cfg: Config) -> None:
    set_tta_pipeline(cfg)
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def run_test(args: argparse.Namespace) -> dict[str, float]:
    """Test a checkpoint.

    Args:
        args: The arguments of ``tools/test.py``.

    Returns:
        The metrics by name.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    with same_on_every_process():
        cfg, scope, lines = prepare_test(args)
    suffix = Path(args.out).suffix if args.out else ''
    if args.out and not suffix:
        for evaluator in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
            evaluator.output_dir = args.out
    hooks = [WeightsReportHook(allow_partial=args.allow_partial_weights)]
    runner = _build_runner(cfg, hooks, lines, trust=args.trust)
    if suffix in ('.pkl', '.pickle'):
        runner.test_evaluator.metrics.append(_dumper(scope)(out_file_path=args.out))
    metrics = runner.test()
    if suffix == '.json' and runner.rank == 0:
        plain = {name: value if isinstance(value, str) else float(value) for name, value in metrics.items()}
        with atomic_path(args.out) as file:
            dump(plain, file, indent=2)
    _leave_process_group()
    return metrics


def _dumper(scope: str) -> type:
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults
    return DumpResults
