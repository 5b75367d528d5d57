"""Predict images and write pictures of the results."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import kept_files, writable_folder
from mmvit_ext.inference.images import Outcome, collect_images, process_images
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import write_picture
from mmvit_ext.inference.speed import speed_up
from mmvit_ext.machine import float32_products

__all__ = ['predict_images']


def predict_images(
    config: str | Path,
    checkpoint: str | Path,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    opacity: float = 0.5,
    legend: bool = True,
    save_mask: bool = False,
    score_threshold: float = 0.3,
    amp: bool = False,
    compile: bool = False,
    tf32: bool = True,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Outcome:
    """Predict images and write pictures of the results; the arguments are those of ``mmvit predict``, said there."""
    if not 0 <= opacity <= 1:
        raise UserError(f'--opacity must be 0 to 1, got {opacity}')
    if not 0 <= score_threshold <= 1:
        raise UserError(f'--score-threshold must be 0 to 1, got {score_threshold}')
    cfg = load_config(config, cfg_options)
    paths = collect_images(inputs)
    folder = writable_folder(out, '--out')
    if save_mask and (scope := cfg.get('default_scope')) != 'mmseg':
        raise UserError(f'--save-mask is for segmentation, {config} is of scope {scope}: leave it out')
    predictor = Predictor(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)
    speed_up(predictor.model, predictor.device, amp=amp, compile=compile)

    def work(path: Path, name: str) -> Path:
        picture, labels = predictor.draw(path, opacity, legend, score_threshold)
        if save_mask and labels is not None:
            write_picture(labels, folder / 'labels' / f'{name}.png')
        return write_picture(picture, folder / 'overlays' / f'{name}.png')

    with kept_files([*paths, config, checkpoint], force=force), float32_products(tf32=tf32):
        return process_images(paths, work, 'predicting', folder, progress=progress)
