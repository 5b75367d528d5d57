"""Generate images with a trained generator; each depends on the seed and its own number only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import kept_files, writable_folder

from .images import Outcome, process_images
from .predictor import Predictor
from .sheets import image_grid, write_picture

__all__ = ['generate_images']

MAX_IMAGES = 1_000_000
GRID_IMAGES = 64  # of the grid at most: more could not be told apart on a screen


def generate_images(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    num: int = 64,
    seed: int = 0,
    columns: int = 8,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Outcome:
    """Generate images and write them, and a grid of the first ones; the arguments are those of ``mmvit generate``."""
    if not 1 <= num <= MAX_IMAGES:
        raise UserError(f'--num must be 1 to {MAX_IMAGES}, got {num}')
    if seed < 0 or columns < 1:
        raise UserError(f'--seed must be 0 or more and --columns at least 1, got {seed} and {columns}')
    cfg = load_config(config, cfg_options)
    if 'generator' not in (cfg.get('model') or {}):
        kind = (cfg.get('model') or {}).get('type', 'model without a type')
        wanted = (
            'expected a mmvit_ext.AdversarialModel, as in configs/nest/nest-generator_8xb32-1000e_imagenet-64x64.py'
        )
        raise UserError(f'{config} describes a {kind}, which generates no images: {wanted}')
    folder = writable_folder(out, '--out')
    predictor = Predictor(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)

    from mmvit_ext.models.generators.adversarial import noise_of

    model: Any = predictor.model
    first: list[torch.Tensor] = []

    def work(path: Path, name: str) -> Path:
        # One by one: in a batch, sums are taken in another order, and a pixel could come out different.
        images = model.sample(noise_of(seed, [int(name)], model.noise_dims)).cpu()
        if len(first) < GRID_IMAGES:
            first.append(images)
        return write_picture(Image.fromarray(images[0].permute(1, 2, 0).numpy()), folder / 'samples' / path)

    names = [Path(f'{index:05}.png') for index in range(num)]
    with kept_files([config, checkpoint], [folder / 'grid.png'], force=force):
        outcome = process_images(names, work, 'generating', folder, progress=progress)
        if first:
            write_picture(Image.fromarray(image_grid(torch.cat(first), columns)), folder / 'grid.png')
    return outcome
