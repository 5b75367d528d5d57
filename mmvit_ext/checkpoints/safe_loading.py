"""Checkpoints that the libraries load, read without running code from them.

mmengine loads ``load_from``, ``resume`` and ``init_cfg=dict(type='Pretrained')`` through one table of loaders by scheme
of the address. Its loaders fall back to a load that runs code from the file, and on resume the stored config text is
executed. :func:`install_safe_loading` enters loaders that never do, and that check downloads against their names' hash.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.fileio import get as read_address
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import HOOKS

from .reading import metafile_hash, read_checkpoint

__all__ = ['SafeFilesHook', 'install_safe_loading', 'safe_loading']


def install_safe_loading(*, trust: bool = False, config: str | Path | None = None) -> None:
    """Make mmengine's loading run no code from files, unless trusted; ``metafile.yml`` beside a config has hashes."""

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        expected = metafile_hash(config, filename)
        return read_checkpoint(filename, trust=trust, expected_hash=expected, map_location=map_location)

    def load_from_http(filename: str, map_location: Any = None) -> Any:
        from .downloads import fetch

        return load_from_local(str(fetch(filename)), map_location)  # one process at a time, the others find the file

    def load_from_bucket(filename: str, map_location: Any = None) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / filename.rpartition('/')[2]
            path.write_bytes(read_address(filename))
            return read_checkpoint(path, f'local copy of {filename},', trust=trust, map_location=map_location)

    def load_from_named(filename: str, map_location: Any = None) -> Any:
        scheme, _, name = filename.partition('://')
        address = _address_of(scheme, name)
        content = load_from_http(address, map_location) if '://' in address else load_from_local(address, map_location)
        return mmengine_checkpoint._process_mmcls_checkpoint(content) if scheme == 'mmcls' else content

    def load_from_pavi(filename: str, map_location: Any = None) -> Any:
        if trust:
            return mmengine_checkpoint.load_from_pavi(filename, map_location)
        remedy = 'download it and give its path, or pass --trust if you trust where it comes from'
        raise UserError(f'{filename} is read with pickle, which runs code from it: {remedy}')

    register = partial(CheckpointLoader.register_scheme, force=True)
    register('', load_from_local)
    register(['http://', 'https://'], load_from_http)
    register('pavi://', load_from_pavi)
    register([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], load_from_bucket)
    register(
        [f'{name}://' for name in ('modelzoo', 'torchvision', 'open-mmlab', 'openmmlab', 'mmcls')], load_from_named
    )


@contextmanager
def safe_loading(*, trust: bool = False, config: str | Path | None = None) -> Iterator[None]:
    """:func:`install_safe_loading` for the length of a block."""
    before = dict(CheckpointLoader._schemes)
    install_safe_loading(trust=trust, config=config)
    try:
        yield
    finally:
        for prefix, loader in before.items():
            CheckpointLoader.register_scheme(prefix, loader, force=True)


def _address_of(scheme: str, name: str) -> str:
    """The file or address behind one of the names that the libraries give to checkpoints."""
    tables = {'mmcls': mmengine_checkpoint.get_mmcls_models}
    tables |= dict.fromkeys(('modelzoo', 'torchvision'), mmengine_checkpoint.get_torchvision_models)
    table = tables.get(scheme, mmengine_checkpoint.get_external_models)()
    if scheme not in tables:
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    if name not in table:
        raise UserError(f'{scheme}://{name} is no checkpoint that is known by name: give its address or a file')
    address = str(table[name])
    return address if '://' in address else os.path.join(mmengine_checkpoint._get_mmengine_home(), address)


@HOOKS.register_module()
class SafeFilesHook(Hook):
    """Reads checkpoints without running code from them, in every train script that uses the config.

    The loaders are installed when the hook is built, because pretrained weights are loaded before the first hook is
    called; they stay. Config text that is stored in a checkpoint, which mmengine executes on resume, is taken out.

    Args:
        trust: Read a file with pickle if that is the only way, which runs code from it.
    """

    priority = 'VERY_HIGH'

    def __init__(self, trust: bool = False) -> None:
        install_safe_loading(trust=trust)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Take out the stored config text, which is only there to be executed."""
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict):
            meta.pop('config', None)
