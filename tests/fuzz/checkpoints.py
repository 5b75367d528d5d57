"""Checkpoint files that are damaged, foreign or hostile, made from a random generator."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Rng = np.random.Generator
State = dict[str, Tensor]

#: Names that released files have; what a converter finds behind them is up to chance.
FOREIGN = (
    'patch_embed.proj.weight',
    'patch_embed.proj.bias',
    'cls_token',
    'dist_token',
    'pos_embed',
    'patch_pos',
    'pixel_pos',
    'pixel_embed.proj.weight',
    'blocks.0.norm1.weight',
    'blocks.0.attn.qkv.weight',
    'blocks.0.attn.qkv.bias',
    'blocks.0.mlp.fc1.weight',
    'blocks.11.mlp.fc2.bias',
    'blocks.x.mlp.fc2.bias',
    'blocks1.0.attn.q.0.weight',
    'patch_embed1.proj.weight',
    'd_convs1.0.weight',
    'levels.0.pos_embed',
    'levels.1.pool.conv.weight',
    'levels.0.transformer_encoder.0.attn.qkv.weight',
    'backbone.patch_embed.projection.weight',
    'backbone.pos_embed',
    'backbone.layers.0.ln1.weight',
    'decode_head.q.weight',
    'decode_head.class_embed.weight',
    'decode_head.input_proj_1.weight',
    'norm.weight',
    'head.weight',
    'head.bias',
    'fc.weight',
    '',
    'a' * 500,
)


class Hostile:
    """Runs a command where it is unpickled; the tests look whether the file that it makes is there."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trap),)


def _tensor(rng: Rng) -> Tensor:
    shape = [int(edge) for edge in rng.integers(0, 6, int(rng.integers(0, 6)))]
    dtype = (torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64)[int(rng.integers(0, 5))]
    return torch.zeros(shape, dtype=dtype)


def _save(folder: Path, content: Any) -> Path:
    path = folder / 'weights.pth'
    torch.save(content, path)
    return path


def _bytes(state: State, **options: Any) -> bytearray:
    stream = io.BytesIO()
    torch.save({'state_dict': state, 'meta': {'epoch': 1}}, stream, **options)
    return bytearray(stream.getvalue())


def empty(rng: Rng, folder: Path, state: State) -> Path:
    """No byte."""
    path = folder / 'weights.pth'
    path.touch()
    return path


def no_checkpoint(rng: Rng, folder: Path, state: State) -> Path:
    """Something else under a checkpoint's name."""
    contents = (b'hello', b'<html>404</html>', b'PK\x05\x06' + b'\0' * 18, b'\x80', b'\x80\x04.', rng.bytes(400))
    path = folder / 'weights.pth'
    path.write_bytes(contents[int(rng.integers(0, len(contents)))])
    return path


def foreign_archive(rng: Rng, folder: Path, state: State) -> Path:
    """A zip file that torch.save has not written."""
    path = folder / 'weights.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        name = str(rng.choice(['readme.txt', 'archive/data.pkl', 'data.pkl', '../../data.pkl']))
        archive.writestr(name, pickle.dumps({'a': 1}) if rng.random() < 0.5 else 'text')
    return path


def cut_off(rng: Rng, folder: Path, state: State) -> Path:
    """The beginning of a checkpoint, of either format."""
    content = _bytes(state, _use_new_zipfile_serialization=bool(rng.random() < 0.5))
    path = folder / 'weights.pth'
    path.write_bytes(content[: int(rng.integers(1, len(content)))])
    return path


def with_wrong_bytes(rng: Rng, folder: Path, state: State) -> Path:
    """Some bytes replaced, of either format, in its first or last part most of all."""
    content = _bytes(state, _use_new_zipfile_serialization=bool(rng.random() < 0.5))
    for _ in range(int(rng.integers(1, 30))):
        place = int(rng.integers(0, min(len(content), 2000)))
        content[place if rng.random() < 0.5 else -place - 1] = int(rng.integers(0, 256))
    path = folder / 'weights.pth'
    path.write_bytes(content)
    return path


def no_dictionary(rng: Rng, folder: Path, state: State) -> Path:
    """Another kind of content."""
    contents = ([1, 2], torch.zeros(3), 'text', None, 7, (), {}, {'state_dict': None}, {'state_dict': []})
    return _save(folder, contents[int(rng.integers(0, len(contents)))])


def odd_names(rng: Rng, folder: Path, state: State) -> Path:
    """Parameters whose names are no text."""
    names = (1, None, (1, 2), 2.5, b'name')
    return _save(folder, {'state_dict': {**state, names[int(rng.integers(0, len(names)))]: torch.zeros(2)}})


def odd_values(rng: Rng, folder: Path, state: State) -> Path:
    """Parameters that are none, or of another shape, type or layout."""
    odd = (
        None,
        'text',
        [1.0, 2.0],
        {'nested': torch.zeros(1)},
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(2, 3, 4, 5, 6),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, dtype=torch.bool),
        torch.empty(3, device='meta'),
        torch.full((3,), float('nan')),
        torch.zeros(1).expand(10**12),
    )
    changed = dict(state)
    changed[str(rng.choice(list(state)))] = odd[int(rng.integers(0, len(odd)))]
    return _save(folder, {'state_dict': changed})


def part_of_the_names(rng: Rng, folder: Path, state: State) -> Path:
    """Parameters left out, renamed or added."""
    kept = {name: value for name, value in state.items() if rng.random() < 0.8}
    kept = {f'{"teacher." if rng.random() < 0.3 else ""}{name}': value for name, value in kept.items()}
    kept['extra'] = _tensor(rng)
    return _save(folder, kept)


def odd_meta(rng: Rng, folder: Path, state: State) -> Path:
    """Good parameters with something odd beside them."""
    metas = (
        [],
        'text',
        7,
        {'dataset_meta': []},
        {'dataset_meta': {'classes': 7}},
        {'dataset_meta': {'classes': ['a', 'b', 'c'], 'palette': 'red'}},
        {'dataset_meta': {'classes': ['a', 'b', 'c'], 'palette': [1, 2, 3]}},
        {'dataset_meta': {'classes': ['a', 'b', 'c'], 'palette': [[1, 2], [3], [4, 5, 6]]}},
        {'dataset_meta': {'classes': ['a', 'b', 'c'], 'palette': [[300, -2, 1.5]] * 3}},
        {'dataset_meta': {'classes': {'a': 1}, 'palette': None}},
        {'CLASSES': ('a', 'b', 'c'), 'PALETTE': [None] * 3},
        {'dataset_meta': {'classes': [None, [], 3]}},
    )
    return _save(folder, {'state_dict': state, 'meta': metas[int(rng.integers(0, len(metas)))]})


def hostile(rng: Rng, folder: Path, state: State) -> Path:
    """A file that runs a command when pickle reads it."""
    content = {'state_dict': state, 'meta': Hostile(folder / 'trap')}
    path = folder / 'weights.pth'
    if rng.random() < 0.5:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def foreign_names(rng: Rng, folder: Path, state: State) -> Path:
    """Names of released files with tensors that do not go with them."""
    names = rng.choice(FOREIGN, int(rng.integers(1, len(FOREIGN))), replace=False)
    return _save(folder, {'model': {str(name): _tensor(rng) for name in names}})


def no_file(rng: Rng, folder: Path, state: State) -> Path:
    """Something else than a file: nothing, a folder, a link to nowhere, a pipe that nobody writes to."""
    path = folder / 'weights.pth'
    kind = int(rng.integers(0, 4))
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(folder / 'nowhere')
    elif kind == 2:
        os.mkfifo(path)
    return path


CHECKPOINTS: dict[str, Callable[[Rng, Path, State], Path]] = {
    'empty': empty,
    'no checkpoint': no_checkpoint,
    'foreign archive': foreign_archive,
    'cut off': cut_off,
    'wrong bytes': with_wrong_bytes,
    'no dictionary': no_dictionary,
    'odd names': odd_names,
    'odd values': odd_values,
    'part of the names': part_of_the_names,
    'odd meta': odd_meta,
    'hostile': hostile,
    'foreign names': foreign_names,
    'no file': no_file,
}
