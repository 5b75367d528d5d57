"""Read a config file and prepare the registries that it needs."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.fileio import YamlHandler, register_handler
from mmengine.registry import init_default_scope

from mmvit_ext.config.labels import follow_labels
from mmvit_ext.config.overrides import apply_cfg_options
from mmvit_ext.errors import UserError
from mmvit_ext.errors.type_names import missing_library, nearest

__all__ = ['load_config', 'prepare_scope']

LIBRARIES = ('mmseg', 'mmdet', 'mmpretrain')


@register_handler(['yaml', 'yml'])  # for every file that mmengine reads, base files of other configs included
class PlainYamlHandler(YamlHandler):
    """Reads YAML as data: mmengine's handler constructs whatever Python object a tag names."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        return yaml.load(file, Loader=yaml.SafeLoader)


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, ``.py``, ``.yaml`` or ``.json``, and apply overrides by dotted key to it."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        similar = nearest(path.name, [entry.name for entry in folder.glob('*') if entry.suffix == path.suffix])
        hint = f'similar files there: {", ".join(similar)}' if similar else 'check the path'
        raise UserError(f'there is no config file {path}; {hint}')
    if path.suffix not in ('.py', '.yaml', '.yml', '.json'):
        raise UserError(f'{path} is not a config: expected a .py, .yaml, .yml or .json file, got {path.suffix!r}')
    try:
        cfg = Config.fromfile(str(path))
    except UserError:
        raise
    except yaml.constructor.ConstructorError as error:
        place = f'line {error.problem_mark.line + 1 if error.problem_mark else "unknown"} of it or its base file'
        reason = f'{place} has the YAML tag {str(error.problem).split()[-1]}, which may run code'
        raise UserError(
            f'the config {path} cannot be read: {reason}: write plain values there, or a Python config'
        ) from error
    except Exception as error:
        where = f' (line {line})' if (line := getattr(error, 'lineno', None)) else ''
        reason = f'{type(error).__name__}: {" ".join(str(error.args[0] if error.args else error).split())}'
        remedy = 'repair it or the file it inherits from'
        raise UserError(f'the config {path} cannot be read{where}: {reason}; {remedy}') from error
    if options:
        apply_cfg_options(cfg, options, str(path))
    return cfg


def prepare_scope(cfg: Config) -> str:
    """Import the library of a config or of its model's class, look types up there, let labels agree; its name."""
    kind = (cfg.get('model') or {}).get('type')
    module = str(getattr(kind, '__module__', kind)).partition('.')[0]
    scope = cfg.get('default_scope') or (module if module in LIBRARIES else None)
    if not scope:
        raise UserError("the config has no default_scope: add default_scope='mmseg' ('mmdet', 'mmpretrain')")
    try:
        importlib.import_module(f'{scope}.registry')
    except Exception as error:
        # The libraries assert the versions of each other, and what else is installed may raise anything.
        if isinstance(error, ModuleNotFoundError) and error.name in (scope, f'{scope}.registry'):
            raise UserError(missing_library(scope, f"default_scope='{scope}'")) from error
        remedy = '`python -m mmvit_ext.doctor` lists the versions that belong together'
        raise UserError(f'{scope} (default_scope) is installed but cannot be imported: {error!r}; {remedy}') from error
    cfg.default_scope = scope
    init_default_scope(scope)
    if scope == 'mmseg':
        follow_labels(cfg)
    return str(scope)
