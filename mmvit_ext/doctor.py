"""Check the installed libraries: ``python -m mmvit_ext.doctor``, or ``make doctor`` in a checkout.

The command prints what is installed, which types of this package can be built, and every problem with its remedy. Its
exit code is 1 if a problem is fatal. It also runs where torch or mmengine is missing, and then says so.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from .machine import DISTRIBUTIONS
from .version import __version__

FATAL, WARNING, NOTE = 'fatal', 'warning', 'note'
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    **DISTRIBUTIONS,
    'cv2': ('opencv-python-headless', 'opencv-python', 'opencv-contrib-python-headless', 'opencv-contrib-python'),
}
PURPOSE = {  # how bad it is if the library is missing, and what cannot be used then
    'mmseg': (WARNING, ': the decode heads, the segmentation transforms and their configs cannot be used'),
    'mmdet': (NOTE, ': detection configs cannot be used'),
    'mmpretrain': (NOTE, ': classification configs cannot be used'),
}
INSTALL = 'Run make env in a checkout of mmvit_ext, or pip install '


class Problem(NamedTuple):
    """One finding: how bad it is, what is the matter, and what to do about it."""

    level: str
    message: str
    remedy: str


class TypeStatus(NamedTuple):
    """A registered type of this package, why it cannot be built, and which missing library is the reason."""

    name: str
    registry: str
    module: str
    error: str | None = None
    needs: str | None = None


@dataclass
class Facts:
    """What the checks judge: versions by distribution, errors by module, and mmengine's ``collect_env``, if it runs."""

    python: str
    distributions: Mapping[str, str]
    torchvision_wants: str | None = None  # the version of torch that the installed torchvision requires
    managed: bool = False  # whether `make env` built the environment
    errors: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    types: list[TypeStatus] = field(default_factory=list)


def release(version: str) -> list[int]:
    """Return the numbers of a version, without a local part such as '+cpu'."""
    return [int(number) for number in re.findall(r'\d+', version.partition('+')[0])]


def check_distributions(facts: Facts) -> Iterator[Problem]:
    """Find what is missing, what overwrites each other, and versions that do not fit."""
    if release(facts.python) < [3, 10]:
        yield Problem(FATAL, f'Python {facts.python} is too old: mmvit_ext needs 3.10.', 'Use Python 3.10 to 3.13.')
    chosen = []
    for module, names in PROVIDERS.items():
        found = [f'{name} {facts.distributions[name]}' for name in names if name in facts.distributions]
        level, purpose = PURPOSE.get(module, (FATAL, ''))
        if len(found) > 1:
            message = f'{" and ".join(found)} are installed together: each provides {module} and overwrote the other.'
            remedy = f'Run pip uninstall -y {" ".join(name.split()[0] for name in found)}, then install one of them.'
            yield Problem(WARNING if module == 'cv2' else FATAL, message, remedy)
        elif not found:
            remedy = f'{INSTALL}{names[0]} (or {names[1]}, never both).'
            yield Problem(level, f'{module} is not installed{purpose}.', remedy)
        elif module != 'cv2':
            chosen += found
    if len({name.startswith('onedl-') for name in chosen}) > 1:
        yield Problem(WARNING, f'Two families are mixed: {", ".join(chosen)}.', 'Use the onedl-* alone, or the others.')
    torch, vision, numpy = (facts.distributions.get(name, '') for name in ('torch', 'torchvision', 'numpy'))
    if not torch:
        yield Problem(FATAL, 'torch is not installed.', f'{INSTALL}torch.')
    elif not vision:
        remedy = f'Install the torchvision that belongs to torch {torch}.'
        yield Problem(WARNING, 'torchvision is not installed: mmpretrain cannot be imported.', remedy)
    elif facts.torchvision_wants and release(facts.torchvision_wants) != release(torch):
        message = f'torchvision {vision} was built for torch {facts.torchvision_wants}, and torch {torch} is installed.'
        yield Problem(FATAL, message, 'Install a matching pair, for example torch 2.11.0 with torchvision 0.26.0.')
    if torch and release(torch) < [2, 3] and release(numpy) >= [2]:
        yield Problem(FATAL, f'torch {torch} was built for numpy 1, not for {numpy}.', "Run pip install 'numpy<2'.")


def check_imports(facts: Facts) -> Iterator[Problem]:
    """Find libraries that cannot be imported and types that cannot be built."""
    again = 'Install it again together with what it needs, or run make env in a checkout.'
    headless = 'Run pip uninstall -y opencv-python opencv-python-headless, then install opencv-python-headless.'
    for module, error in facts.errors.items():
        level = WARNING if module in ('mmdet', 'mmpretrain') else FATAL
        if module != 'mmcv._ext':
            remedy = headless if re.search('libGL|libgthread', error) else again
            yield Problem(level, f'{module} is installed but cannot be imported: {error}.', remedy)
    for name, _, module, cause, needs in facts.types:
        remedy = f'{INSTALL}{needs}.' if needs else f'Remove the cause, or report it (python -c "import {module}").'
        if cause and needs not in ('torch', *PROVIDERS):
            yield Problem(WARNING if needs else FATAL, f'mmvit_ext.{name} cannot be built: {cause}.', remedy)


def check_operators(facts: Facts) -> Iterator[Problem]:
    """Find out whether mmcv's operators fit torch and run on the GPU, and note a machine without a GPU."""
    torch, gpu = facts.distributions.get('torch', ''), any(key.startswith('GPU ') for key in facts.env)
    name = next((name for name in PROVIDERS['mmcv'] if name in facts.distributions), 'mmcv')
    rebuild = (
        f'Compile it again: pip uninstall -y {name}, then MMCV_WITH_OPS=1 pip install --no-cache-dir '
        f'--no-build-isolation --no-binary {name} {name}=={facts.distributions.get(name)} (with setuptools<81).'
    )
    rebuild = 'Run make env REBUILD_MMCV=1.' if facts.managed else rebuild
    if facts.env and not gpu:
        yield Problem(NOTE, 'torch sees no GPU: everything runs on the CPU.', 'Only the published recipes need GPUs.')
    elif facts.env.get('MMCV CUDA') == 'not available':
        remedy = f'Put the nvcc of CUDA {facts.env["PyTorch CUDA"]} on the path. {rebuild}'
        yield Problem(WARNING, 'A GPU is present, but mmcv was compiled for the CPU alone.', remedy)
    if (error := facts.errors.get('mmcv._ext')) and torch and not facts.errors.keys() & {'torch', 'mmcv'}:
        reason = 'was not compiled' if 'No module named' in error else 'cannot be loaded'
        if re.search('undefined symbol|Symbol not found', error):
            reason = f'was built for another torch than the installed {torch}'
        yield Problem(FATAL, f'mmcv._ext {reason}: {error}.', rebuild)


def diagnose(facts: Facts) -> list[Problem]:
    """Return all problems, the fatal ones first."""
    found = (*check_distributions(facts), *check_imports(facts), *check_operators(facts))
    return sorted(found, key=lambda problem: (FATAL, WARNING, NOTE).index(problem.level))


def find_types(package: Path) -> list[TypeStatus]:
    """Find the types in the source of a package, whether or not they can be imported."""
    pattern = re.compile(r'^@(\w+)\.register_module\((?:name=.(\w+).)?\)\nclass (\w+)', re.MULTILINE)
    found = []
    for path in sorted(set(package.rglob('*.py')) - set(package.rglob('.mim/**/*.py'))):
        module = '.'.join(path.relative_to(package.parent).with_suffix('').parts).removesuffix('.__init__')
        for registry, name, kind in pattern.findall(path.read_text(encoding='utf-8')):
            found.append(TypeStatus(name or kind, registry, module))
    return found


def describe(error: Exception) -> str:
    """Return an exception in one line."""
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip(".")}'


def try_type(status: TypeStatus) -> TypeStatus:
    """Import a type and look it up as a config does, by its scope and name."""
    try:
        importlib.import_module(status.module)
        if getattr(importlib.import_module('mmvit_ext.registry'), status.registry).get(f'mmvit_ext.{status.name}'):
            return status
        return status._replace(error='its module is not among the locations of the registry')
    except Exception as error:  # whatever a broken library raises is the finding
        library = (error.name or '').partition('.')[0] if isinstance(error, ModuleNotFoundError) else ''
        return status._replace(error=describe(error), needs=library if library and not find_spec(library) else None)


def installed_facts() -> Facts:
    """Return what can be told without importing anything."""
    names = {'torch', 'torchvision', 'numpy'}.union(*PROVIDERS.values())
    versions = {str(dist.name).lower(): dist.version for dist in importlib.metadata.distributions()}
    found = {name: version for name, version in sorted(versions.items()) if name.replace('_', '-') in names}
    needs = importlib.metadata.requires('torchvision') if 'torchvision' in found else None
    wants = re.search(r'\btorch ?\(?==([^;,) ]+)', ' '.join(needs or []))
    return Facts(platform.python_version(), found, wants and wants[1], (Path(sys.prefix) / 'mmvit-env').exists())


def send_facts(connection: Connection) -> None:
    """Import the libraries and the types; send the name of each module before its import, and the facts at last."""
    facts, sys.stdout, sys.stderr = installed_facts(), io.StringIO(), io.StringIO()  # imports may print and warn
    for module in ('numpy', 'torch', 'torchvision', *PROVIDERS, 'mmcv._ext'):
        connection.send(module)
        try:
            if find_spec(module.partition('.')[0]):
                importlib.import_module(module)
        except Exception as error:  # whatever a broken library raises is the finding
            facts.errors[module] = describe(error)
    with contextlib.suppress(Exception):  # the imports above said what is broken
        from mmengine.utils.dl_utils import collect_env

        facts.env = {key: str(value) for key, value in collect_env().items() if not re.search('details|seed|MUSA', key)}
        facts.env['PyTorch CUDA'] = str(sys.modules['torch'].version.cuda)
        facts.env['MMCV CUDA'] = importlib.import_module('mmcv._ext').get_compiling_cuda_version()
    for status in find_types(Path(__file__).parent):
        connection.send(status.module)
        facts.types.append(try_type(status))
    connection.send(facts)


def collect(send: Callable[[Connection], None] = send_facts) -> Facts:
    """Inspect the installation, in a child process because importing a damaged library can end the interpreter."""
    context = multiprocessing.get_context('fork' if hasattr(os, 'fork') else None)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(sender,))  # type: ignore[attr-defined]
    child.start()
    sender.close()
    message: str | Facts = ''
    with receiver, contextlib.suppress(EOFError):
        while isinstance(message, str):
            message = receiver.recv()
    child.join()
    if isinstance(message, Facts):
        return message
    return replace(installed_facts(), errors={message: f'it ended the interpreter (exit code {child.exitcode})'})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a problem is fatal, otherwise 0."""
    parser = argparse.ArgumentParser('python -m mmvit_ext.doctor', description='Check the installed libraries.')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    as_json, facts = parser.parse_args(argv).json, collect()
    problems = diagnose(facts)
    ok = FATAL not in {problem.level for problem in problems}
    if as_json:
        found = {'facts': asdict(facts), 'problems': [problem._asdict() for problem in problems]}
        print(json.dumps({'version': __version__, 'ok': ok, **found}, indent=2))
    else:
        types = {f'mmvit_ext.{status.name}': status.error or 'can be built' for status in facts.types}
        stack = {'mmvit_ext': __version__, 'Python': facts.python, **facts.distributions, **facts.env, **types}
        print(*(f'{name:<40} {value}' for name, value in stack.items()), sep='\n')
        print('\n' + ('\n'.join('{}: {} {}'.format(*problem) for problem in problems) or 'No problems.'))
    return 0 if ok else 1


if __name__ == '__main__':
    sys.exit(main())
