"""Arguments of ``--cfg-options`` that are mistyped, of a wrong type or out of range, made from a random generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config

Rng = np.random.Generator

VALUES = (
    '-1',
    '0',
    '1e30',
    'nan',
    'None',
    'True',
    '',
    'text',
    '[]',
    '[1,',
    '(1,2',
    '[1,2,3]',
    '((1,2),(3,4))',
    '{}',
    '{"a":1}',
    "dict(type='LN')",
    "__import__('os')",
    '../../etc/passwd',
    'ä',
    '99999999999999999999',
)
#: Overrides whose keys no walk through the config finds.
ODD_ARGUMENTS = (
    'novalue',
    '=5',
    '.=5',
    'a..b=5',
    'model.=5',
    '.model=5',
    'model=5',
    'model=None',
    'model.0=5',
    'train_dataloader.dataset.pipeline.-1.type=5',
    'train_dataloader.dataset.pipeline.x=5',
    'train_dataloader.dataset.pipeline=[]',
    'train_cfg.max_iters.a.b.c=5',
    'default_scope=None',
    'default_scope=5',
    'default_scope=mmdte',
    'model.type=None',
    'model.type=Nothing',
    'model.backbone._delete_=True',
    'custom_imports.imports=[absent.module]',
    'custom_hooks=5',
    "custom_hooks=[dict(type='Nothing')]",
    'launcher=5',
    'work_dir=5',
    'load_from=absent.pth',
    'resume=yes',
    'randomness.seed=text',
    'env_cfg.mp_cfg.mp_start_method=text',
    'log_level=LOUD',
    '$HOME=5',
    '{{fileBasename}}=5',
)


def _keys(node: Any, prefix: str = '') -> Iterator[str]:
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for name, entry in entries:
        yield f'{prefix}{name}'
        if isinstance(entry, dict | list | tuple):
            yield from _keys(entry, f'{prefix}{name}.')


def odd_value(rng: Rng, cfg: Config) -> str:
    """A key of the config with some value."""
    keys = [key for key in _keys(cfg._cfg_dict) if '.' in key]
    return f'{rng.choice(keys)}={rng.choice(VALUES)}'


def mistyped_key(rng: Rng, cfg: Config) -> str:
    """A key with two letters exchanged, one left out or one added."""
    key = list(str(rng.choice([key for key in _keys(cfg._cfg_dict) if '.' in key])))
    place = int(rng.integers(0, len(key)))
    kind = int(rng.integers(0, 3))
    if kind == 0:
        del key[place]
    elif kind == 1:
        key.insert(place, 'x')
    else:
        key[place : place + 2] = key[place : place + 2][::-1]
    return f'{"".join(key)}=1'


def odd_argument(rng: Rng, cfg: Config) -> str:
    """One from the list."""
    return str(rng.choice(ODD_ARGUMENTS))


OVERRIDES = {'value': odd_value, 'key': mistyped_key, 'argument': odd_argument}
