"""From a folder of somebody's images and annotations to a config that trains on them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmvit_ext.checkpoints.reading import check_checkpoint_file, extract_state_dict, read_checkpoint
from mmvit_ext.config.writing import config_text
from mmvit_ext.config.zoo import entry_of, list_models
from mmvit_ext.datasets.folder import FolderData, understand, write_datasets
from mmvit_ext.engine.recipes import choose_recipe, sections_of
from mmvit_ext.errors import UserError
from mmvit_ext.files import atomic_path, kept_files, writable_folder

__all__ = ['PreparedTraining', 'best_checkpoint', 'prepare_training']

TASKS = {'seg': 'segmentation', 'det': 'detection', 'inst': 'instance segmentation', 'cls': 'classification'}

DEFAULTS = {'seg': ('segvit', 'sem-fpn'), 'det': ('faster-rcnn', 'faster-rcnn'), 'inst': ('mask-rcnn', 'mask-rcnn')}
"""The head of a task where pretrained weights can be had, and where all has to be learned from the folder."""

SECONDS = 5
"""How long the hub of the weights may take to answer."""


@dataclass(frozen=True)
class PreparedTraining:
    """A config that was written, what was understood, and what was not certain."""

    config: Path
    work_dir: Path
    lines: tuple[str, ...]
    doubts: tuple[str, ...]
    example: Path  # an image of the validation


def prepare_training(
    folder: str | Path,
    *,
    task: str | None = None,
    model: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    checkpoint: str | None = None,
    work_dir: str | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    trust: bool = False,
    command: str = '',
) -> PreparedTraining:
    """Understand a folder, choose a training, and write its lists and its config into ``work_dir/setup``.

    Args:
        folder: Images and their annotations in any usual layout.
        task: 'seg', 'det', 'inst' or 'cls'; recognised by default, or by the model.
        model: Name of a model, see ``mmvit models``.
        epochs: Passes over the training images.
        batch_size: Images of a step.
        size: Shorter side of a training image in pixels.
        checkpoint: Weights of the backbone or of a whole model to begin with: a file, ``'timm'`` for those that timm
            publishes, ``'none'``; by default timm's where they are and can be reached.
        work_dir: Folder of the training; ``work_dirs/NAME_OF_THE_FOLDER`` by default.
        val_share: Share of the images that are kept for validation where the folder has no split.
        seed: Seed of that split.
        trust: Read a checkpoint that holds more than tensors.
        command: What the user typed, for the head of the config.

    Raises:
        UserError: The folder or an argument is wrong. Nothing has been written then.
    """
    for option, value in (('--epochs', epochs), ('--batch-size', batch_size), ('--size', size)):
        if value is not None and value < 1:
            raise UserError(f'{option} must be at least 1, got {value}')
    if not 0 < val_share < 1:
        raise UserError(f'--val-share must be a share between 0 and 1, got {val_share:g}')
    if task is not None and task not in TASKS:
        raise UserError(f'--task must be one of {", ".join(TASKS)}, got {task!r}')
    if model is not None:
        found = entry_of(model).task
        if task not in (None, found):
            raise UserError(f'--model {model} is for {TASKS[found]}, not for --task {task}: change one of them')
        task = found
    data = understand(folder, task=task, seed=seed, val_share=val_share)
    doubts = list(data.doubts)
    model, weights, said = _choose_weights(data, model, checkpoint, trust)
    doubts += said
    recipe = choose_recipe(data, model, weights, epochs=epochs, batch_size=batch_size, size=size)
    lines = [*data.notes, *recipe.lines(len(data.splits['train']))]
    target = writable_folder(work_dir or Path('work_dirs') / data.root.name, '--work-dir').absolute()
    config = target / 'setup' / f'{model}_{re.sub(r"[^A-Za-z0-9_-]+", "-", data.root.name)}.py'
    with kept_files([checkpoint] if checkpoint and Path(checkpoint).is_file() else []):
        datasets = write_datasets(data, target / 'setup')
        text = config_text(
            _heading(data, config, lines, doubts, command), sections_of(recipe, data, datasets, str(target))
        )
        with atomic_path(config) as temporary:
            temporary.write_text(text, encoding='utf-8')
    example = data.root / data.splits['val'][0].image
    return PreparedTraining(config, target, tuple(lines), tuple(doubts), example)


def _heading(data: FolderData, config: Path, lines: list[str], doubts: list[str], command: str) -> str:
    parts = [f'{TASKS[data.task].capitalize()} of the images in {data.root}.', '']
    parts += [f'Written by: {command}', ''] if command else []
    parts += ['What was understood:', *(f'  - {line}' for line in lines), '']
    if doubts:
        parts += ['What was not certain:', *(f'  - {line}' for line in doubts), '']
    parts += [
        'Change what you like and continue with',
        f'    mmvit check {config}',
        f'    mmvit train {config}',
        f'    mmvit predict {config} CHECKPOINT IMAGES --out FOLDER',
    ]
    return '\n'.join(parts)


def _choose_weights(
    data: FolderData, model: str | None, checkpoint: str | None, trust: bool
) -> tuple[str, Mapping[str, Any], list[str]]:
    """The model, what its backbone's config says of its weights, and what is to be told about them."""
    backbones = 'dinov2-s', 'p2t-t' if torch.cuda.is_available() else 'p2t-mini'
    heads = DEFAULTS.get(data.task, ('', ''))
    pretrained, scratch = (f'{head}_{backbone}'.lstrip('_') for head, backbone in zip(heads, backbones, strict=True))
    if checkpoint not in (None, 'timm', 'none'):
        if model is None:
            raise UserError(f'--checkpoint {checkpoint} needs --model NAME: `mmvit models` lists the names')
        return model, _weights_of_file(str(checkpoint), trust), []
    name = model or (scratch if checkpoint == 'none' else pretrained)
    row = entry_of(name).row
    if checkpoint == 'none':
        return name, {}, []
    if row.weights != 'timm':
        if checkpoint == 'timm':
            others = [
                other for other in list_models(f'{entry_of(name).head}_*-s') if entry_of(other).row.weights == 'timm'
            ]
            raise UserError(
                f'--checkpoint timm: timm has no weights for {name}, but for {", ".join(others)} and others'
            )
        hint = ' (published weights: docs/model_zoo.md)' if row.weights == 'file' else ''
        return name, {}, [f'{name} begins with random weights: --checkpoint FILE gives others{hint}']
    if fault := _unreachable(row.arch):
        if checkpoint == 'timm':
            raise UserError(f'--checkpoint timm: {fault}; give a file, or --checkpoint none for random weights')
        what = name if model else f'{name} would be the default; {scratch}'
        return model or scratch, {}, [f'{fault}: {what} begins with random weights; --checkpoint FILE gives others']
    return (
        name,
        dict(checkpoint='timm'),
        [f'the weights of {row.arch} are by timm, licence {row.licence}; --checkpoint none begins without them'],
    )


def _weights_of_file(path: str, trust: bool) -> Mapping[str, Any]:
    check_checkpoint_file(path)
    state = extract_state_dict(read_checkpoint(path, trust=trust), path)
    prefix = dict(prefix='backbone.') if any(name.startswith('backbone.') for name in state) else {}
    return dict(init_cfg=dict(type='Pretrained', checkpoint=str(Path(path).absolute()), **prefix))


def _unreachable(tag: str) -> str:
    """Why timm's weights of this name cannot be had, empty where they can."""
    if importlib.util.find_spec('timm') is None:
        return 'timm is not installed, which brings pretrained weights (pip install timm)'
    import huggingface_hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    repository, file = f'timm/{tag}', 'model.safetensors'
    if isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str):
        return ''
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=SECONDS)
    except Exception as error:  # the hub's clients raise errors of several libraries
        return f'pretrained weights cannot be downloaded ({type(error).__name__})'
    return ''


def best_checkpoint(work_dir: Path) -> Path | None:
    """The best checkpoint of a training, or the last one where none was better than the others."""
    found = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    found = found or sorted(work_dir.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
