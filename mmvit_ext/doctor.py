"""Look the installed stack over: ``python -m mmvit_ext.doctor``, or ``make doctor`` in a checkout.

It prints what is installed, then every problem with its remedy, then which of this package's types can be built. The
exit code is 1 when a problem is fatal. It runs wherever Python runs: a missing torch or mmengine is a finding and not a
traceback. The checks are functions of what they judge; :func:`collect` is the one that looks at the machine.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .version import __version__

__all__ = ['Facts', 'Problem', 'TypeStatus', 'collect', 'diagnose', 'find_types', 'main']

FATAL, WARNING, NOTE = 'fatal', 'warning', 'note'

# Which distributions provide a module, the maintained fork first. Any two of one line overwrite each other's files.
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
PURPOSE = {
    'mmseg': 'the decode heads, the segmentation transforms and their configs',
    'mmdet': 'detection configs',
    'mmpretrain': 'classification configs',
}
MODULES = ('numpy', 'torch', 'torchvision', 'cv2', 'mmengine', 'mmcv', 'mmcv._ext', 'mmseg', 'mmdet', 'mmpretrain')
INSTALL = 'Run make env in a checkout of mmvit_ext, or install it into this environment: '


@dataclass(frozen=True)
class Problem:
    """One finding.

    Args:
        level: 'fatal' (nothing works), 'warning' (something does not) or 'note' (something may surprise).
        message: what is the matter, one sentence.
        remedy: what to do about it, one sentence.
    """

    level: str
    message: str
    remedy: str


@dataclass(frozen=True)
class TypeStatus:
    """One registered type of this package.

    Args:
        name: the name that a config uses, without the scope.
        registry: the registry that holds it, for example 'MODELS'.
        module: the module that defines it.
        error: why it cannot be used, ``None`` when it can.
        needs: the missing library that is the reason, ``None`` if the reason is another one.
    """

    name: str
    registry: str
    module: str
    error: str | None = None
    needs: str | None = None


@dataclass
class Facts:
    """What the checks judge.

    Args:
        python: version of the interpreter.
        distributions: installed distributions that matter here, by normalised name, with their versions.
        errors: modules that are installed and cannot be imported, with the error.
        torchvision_wants: the version of torch that the installed torchvision names as its own.
        torch_cuda: CUDA version that torch was built with, ``None`` for a CPU build.
        mmcv_cuda: CUDA version that mmcv was compiled with, 'not available' for a CPU build, ``None`` if unknown.
        gpus: names of the GPUs that torch can use.
        threads: threads that torch uses on the CPU, ``None`` if torch does not tell.
        free_gib: free disk space below the current folder, in GiB.
        managed: whether the environment was built by ``make env``.
        types: this package's types.
        complete: whether all could be looked at; importing a damaged library can end the child process that does it.
    """

    python: tuple[int, int, int]
    distributions: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    torchvision_wants: str | None = None
    torch_cuda: str | None = None
    mmcv_cuda: str | None = None
    gpus: Sequence[str] = ()
    threads: int | None = None
    free_gib: float | None = None
    managed: bool = False
    types: Sequence[TypeStatus] = ()
    complete: bool = True


def installed(distributions: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Those of `names` that are installed, with their versions, as ``name version``."""
    return [f'{name} {distributions[name]}' for name in names if name in distributions]


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: ``2.11.0+cpu`` gives ``(2, 11, 0)``."""
    match = re.match(r'\d+(?:\.\d+)*', version)
    return tuple(int(part) for part in match.group().split('.')) if match else ()


# --- the checks -----------------------------------------------------------------------------------------------------


def check_python(facts: Facts) -> list[Problem]:
    """An interpreter that the package does not run on."""
    if facts.python >= (3, 10):
        return []
    version = '.'.join(map(str, facts.python))
    return [Problem(FATAL, f'Python {version} is too old: mmvit_ext needs 3.10.', 'Use Python 3.10 to 3.13.')]


def check_presence(facts: Facts) -> list[Problem]:
    """Libraries that are not installed at all."""
    problems = []
    if 'torch' not in facts.distributions:
        problems.append(Problem(FATAL, 'torch is not installed.', INSTALL + 'pip install torch.'))
    for module, names in PROVIDERS.items():
        if installed(facts.distributions, names):
            continue
        remedy = INSTALL + f'pip install {names[0]} (or the upstream {names[1]}, never both).'
        if module in PURPOSE:
            level = WARNING if module == 'mmseg' else NOTE
            problems.append(Problem(level, f'{module} is not installed: {PURPOSE[module]} cannot be used.', remedy))
        else:
            problems.append(Problem(FATAL, f'{module} is not installed.', remedy))
    return problems


def check_conflicts(facts: Facts) -> list[Problem]:
    """Distributions that write the same files, and families that were not made for each other."""
    problems = []
    for module, names in PROVIDERS.items():
        found = installed(facts.distributions, names)
        if len(found) > 1:
            uninstall = ' '.join(entry.split()[0] for entry in found)
            problems.append(
                Problem(
                    FATAL,
                    f'{" and ".join(found)} are installed together: each provides {module} and overwrote the other.',
                    f'Run pip uninstall -y {uninstall}, then install one of them again.',
                )
            )
    chosen = {
        module: found[0]
        for module, names in PROVIDERS.items()
        if len(found := installed(facts.distributions, names)) == 1
    }
    forks = [entry for entry in chosen.values() if entry.startswith('onedl-')]
    upstream = [entry for entry in chosen.values() if not entry.startswith('onedl-')]
    if forks and upstream:
        problems.append(
            Problem(
                WARNING,
                f'Two families are mixed: {", ".join(forks)} and {", ".join(upstream)}.',
                'Use the onedl-* distributions alone, or the upstream ones alone.',
            )
        )
    found = installed(facts.distributions, OPENCV)
    if len(found) > 1:
        uninstall = ' '.join(entry.split()[0] for entry in found)
        problems.append(
            Problem(
                WARNING,
                f'{" and ".join(found)} are installed together: they write the same cv2 folder.',
                f'Run pip uninstall -y {uninstall}, then install one of them again.',
            )
        )
    return problems


def check_pairs(facts: Facts) -> list[Problem]:
    """Versions that have to match: torch with torchvision, and torch with numpy."""
    problems = []
    torch, vision = facts.distributions.get('torch'), facts.distributions.get('torchvision')
    if torch and vision and facts.torchvision_wants and release(facts.torchvision_wants) != release(torch):
        problems.append(
            Problem(
                FATAL,
                f'torchvision {vision} was built for torch {facts.torchvision_wants}, and torch {torch} is installed.',
                'Install a matching pair, for example torch 2.11.0 with torchvision 0.26.0.',
            )
        )
    if torch and not vision:
        problems.append(
            Problem(
                WARNING,
                'torchvision is not installed: mmpretrain cannot be imported.',
                f'Install the torchvision that belongs to torch {torch}.',
            )
        )
    numpy = facts.distributions.get('numpy')
    if torch and numpy and release(torch) < (2, 3) and release(numpy) >= (2,):
        problems.append(
            Problem(
                FATAL,
                f'torch {torch} was built for numpy 1, and numpy {numpy} is installed.',
                "Run pip install 'numpy<2', or use a newer torch.",
            )
        )
    return problems


def check_imports(facts: Facts) -> list[Problem]:
    """Libraries that are installed but cannot be imported."""
    problems = []
    for module, error in facts.errors.items():
        if module == 'mmcv._ext':
            continue  # has a check of its own
        remedy = 'Install it again together with what it needs, or build the environment with make env.'
        if 'libGL' in error or 'libgthread' in error:
            remedy = 'Run pip uninstall -y opencv-python opencv-python-headless, then install opencv-python-headless.'
        level = WARNING if module in ('mmdet', 'mmpretrain') else FATAL
        problems.append(Problem(level, f'{module} is installed but cannot be imported: {error}.', remedy))
    return problems


def check_extension(facts: Facts) -> list[Problem]:
    """The compiled part of mmcv: present, built for the installed torch, and with CUDA where there is a GPU."""
    found = installed(facts.distributions, PROVIDERS['mmcv'])
    if not found or 'torch' not in facts.distributions or 'torch' in facts.errors or 'mmcv' in facts.errors:
        return []  # told already
    name, version = found[0].split()
    torch = facts.distributions['torch']
    rebuild = (
        'Run make env REBUILD_MMCV=1.'
        if facts.managed
        else f'Compile it again: pip uninstall -y {name}, then MMCV_WITH_OPS=1 pip install --no-cache-dir '
        f'--no-build-isolation --no-binary {name} {name}=={version} (with ninja, psutil and setuptools<81 installed).'
    )
    error = facts.errors.get('mmcv._ext')
    if error is not None:
        if 'undefined symbol' in error or 'Symbol not found' in error:
            message = f'mmcv._ext was built for another torch than the installed {torch}: {error}.'
        elif 'No module named' in error:
            message = f'{name} {version} was installed without its compiled operators (mmcv._ext).'
        else:
            message = f'mmcv._ext cannot be loaded: {error}.'
        return [Problem(FATAL, message, rebuild)]
    if facts.gpus and facts.mmcv_cuda == 'not available':
        wanted = f' of CUDA {facts.torch_cuda}' if facts.torch_cuda else ''
        return [
            Problem(
                WARNING,
                'A GPU is present but mmcv was compiled for the CPU: its operators do not run on the GPU.',
                f'Put the nvcc{wanted} on the path. {rebuild}',
            )
        ]
    return []


def check_gpu(facts: Facts) -> list[Problem]:
    """A machine without a GPU, which is fine for the demo and the tests."""
    if facts.gpus or not facts.complete or 'torch' not in facts.distributions or 'torch' in facts.errors:
        return []
    return [
        Problem(
            NOTE,
            'torch sees no GPU: everything runs on the CPU.',
            'Nothing to do for the demo and the tests; the published recipes need GPUs.',
        )
    ]


def check_types(facts: Facts) -> list[Problem]:
    """Types of this package that cannot be used."""
    problems = []
    missing: dict[str, list[str]] = {}
    for status in facts.types:
        if status.needs in PROVIDERS or status.needs == 'torch':
            continue  # told by check_presence
        if status.needs:
            missing.setdefault(status.needs, []).append(status.name)
        elif status.error:
            problems.append(
                Problem(
                    FATAL,
                    f'mmvit_ext.{status.name} cannot be built: {status.error}.',
                    f'Mend the cause, or report it with the output of python -c "import {status.module}".',
                )
            )
    for library, names in missing.items():
        problems.append(
            Problem(
                WARNING,
                f'{library} is missing, so these types cannot be built: {", ".join(names)}.',
                INSTALL + f'pip install {library}.',
            )
        )
    return problems


CHECKS: Sequence[Callable[[Facts], list[Problem]]] = (
    check_python,
    check_presence,
    check_conflicts,
    check_pairs,
    check_imports,
    check_extension,
    check_types,
    check_gpu,
)


def diagnose(facts: Facts) -> list[Problem]:
    """All problems, the fatal ones first."""
    problems = [problem for check in CHECKS for problem in check(facts)]
    return sorted(problems, key=lambda problem: (FATAL, WARNING, NOTE).index(problem.level))


# --- looking at the machine -----------------------------------------------------------------------------------------


def find_types(package: Path) -> list[TypeStatus]:
    """Find this package's types in its source, whether or not they can be imported.

    Args:
        package: folder of the package.

    Returns:
        A status for each class that is decorated with ``@REGISTRY.register_module(...)``, none of them tried yet.
    """
    found = []
    for path in sorted(package.rglob('*.py')):
        relative = path.relative_to(package.parent)
        if any(part.startswith('.') for part in relative.parts):
            continue
        module = '.'.join(relative.with_suffix('').parts).removesuffix('.__init__')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                match decorator:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name(id=registry), attr='register_module'), keywords=given
                    ):
                        names = [
                            word.value.value
                            for word in given
                            if word.arg == 'name' and isinstance(word.value, ast.Constant)
                        ]
                        found.append(TypeStatus(str(names[0]) if names else node.name, registry, module))
    return found


def try_type(status: TypeStatus) -> TypeStatus:
    """Import a type and look it up as a config would, by its scope and name."""
    try:
        importlib.import_module(status.module)
        registry = getattr(importlib.import_module('mmvit_ext.registry'), status.registry)
        if registry.get(f'mmvit_ext.{status.name}') is None:
            return TypeStatus(
                status.name, status.registry, status.module, 'its module is not among the locations of the registry'
            )
    except ModuleNotFoundError as error:
        library = (error.name or '').partition('.')[0]
        needs = library if library and find_spec(library) is None else None
        return TypeStatus(status.name, status.registry, status.module, describe(error), needs)
    except Exception as error:  # whatever an import of a broken stack raises is the finding
        return TypeStatus(status.name, status.registry, status.module, describe(error))
    return status


def describe(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0].rstrip(".")}' if lines else type(error).__name__


def installed_distributions() -> dict[str, str]:
    """Versions of the distributions that matter here."""
    versions = {}
    for name in (*OPENCV, *(name for names in PROVIDERS.values() for name in names), 'torch', 'torchvision', 'numpy'):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def torchvision_wants() -> str | None:
    """The version of torch that the installed torchvision was built for, as its metadata say."""
    try:
        needs = importlib.metadata.requires('torchvision') or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for need in needs:
        match = re.match(r'torch\s*\(?==\s*([^\s;)]+)', need)
        if match:
            return match.group(1)
    return None


def installed_facts() -> Facts:
    """What can be told without importing anything."""
    return Facts(
        python=sys.version_info[:3],
        distributions=installed_distributions(),
        torchvision_wants=torchvision_wants(),
        free_gib=shutil.disk_usage(os.getcwd()).free / 2**30,
        managed=(Path(sys.prefix) / 'mmvit-env.json').exists(),
    )


def imported_facts(progress: Callable[[str], None]) -> Facts:
    """What is told by importing the libraries and this package's types.

    Args:
        progress: called with the name of each module before its import.
    """
    facts = installed_facts()
    errors = {}
    for module in MODULES:
        if find_spec(module.partition('.')[0]) is None:
            continue
        progress(module)
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever an import of a broken stack raises is the finding
            errors[module] = describe(error)
    facts.errors = errors
    if 'torch' in sys.modules and 'torch' not in errors:
        torch = sys.modules['torch']
        facts.torch_cuda = torch.version.cuda
        facts.threads = torch.get_num_threads()
        if torch.cuda.is_available():
            facts.gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if 'mmcv._ext' in sys.modules:
        facts.mmcv_cuda = sys.modules['mmcv._ext'].get_compiling_cuda_version()
    types = []
    for status in find_types(Path(__file__).parent):
        progress(status.module)
        types.append(try_type(status))
    facts.types = types
    return facts


def _send_facts(connection: Connection) -> None:
    # some libraries print or warn when imported; that is neither a finding nor JSON
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        facts = imported_facts(connection.send)
    connection.send(facts)


def collect(send: Callable[[Connection], None] = _send_facts) -> Facts:
    """Look at the interpreter, the installed libraries and the machine.

    A damaged extension module can take the interpreter down with it, so the imports happen in a child process.

    Args:
        send: what the child does: send module names before their imports, and the facts at last.
    """
    context = multiprocessing.get_context('fork' if hasattr(os, 'fork') else None)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(sender,))  # type: ignore[attr-defined]
    child.start()
    sender.close()
    module = ''
    with receiver, contextlib.suppress(EOFError):
        while True:
            message = receiver.recv()
            if isinstance(message, Facts):
                child.join()
                return message
            module = message
    child.join()
    facts = installed_facts()
    facts.complete = False
    facts.errors = {module: f'it ended the interpreter (exit code {child.exitcode})'}
    return facts


# --- printing -------------------------------------------------------------------------------------------------------


def stack_rows(facts: Facts) -> list[tuple[str, str]]:
    """The stack as pairs of a name and what is known about it."""
    rows = [
        ('mmvit_ext', __version__),
        ('Python', '.'.join(map(str, facts.python)) + f' on {platform.system()} {platform.machine()}'),
    ]
    for module, names in {'torch': ('torch',), 'torchvision': ('torchvision',), **PROVIDERS, 'cv2': OPENCV}.items():
        value = ', '.join(installed(facts.distributions, names)) or 'not installed'
        if module == 'torch' and module in facts.distributions and module not in facts.errors and facts.complete:
            value += f' (CUDA {facts.torch_cuda})' if facts.torch_cuda else ' (CPU build)'
        if module == 'torchvision' and facts.torchvision_wants:
            value += f' (for torch {facts.torchvision_wants})'
        rows.append((module, value + (', cannot be imported' if module in facts.errors else '')))
    if installed(facts.distributions, PROVIDERS['mmcv']):
        loads = 'does not load' if 'mmcv._ext' in facts.errors or 'mmcv' in facts.errors else 'loads'
        cuda = {None: '', 'not available': ', CPU operators'}.get(facts.mmcv_cuda, f', CUDA {facts.mmcv_cuda}')
        rows.append(('mmcv._ext', loads + cuda))
    rows.append(('numpy', facts.distributions.get('numpy', 'not installed')))
    rows.append(('GPU', ', '.join(facts.gpus) or ('none' if facts.complete else 'not looked for')))
    if facts.threads is not None:
        rows.append(('CPU threads', str(facts.threads)))
    if facts.free_gib is not None:
        rows.append(('free disk', f'{facts.free_gib:.0f} GiB'))
    return rows


def print_report(facts: Facts, problems: Sequence[Problem]) -> None:
    """Print the stack, the types and the problems; as tables where rich is installed."""
    type_rows = [
        (f'mmvit_ext.{status.name}', status.registry, f'needs {status.needs}' if status.needs else status.error or 'ok')
        for status in facts.types
    ]
    if find_spec('rich') is None:
        for row in (*stack_rows(facts), *type_rows):
            print('  '.join(row))
        for problem in problems:
            print(f'{problem.level}: {problem.message} {problem.remedy}')
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # a pipe has no width of its own, and a sentence cut into pieces cannot be searched for
    console = Console(width=None if sys.stdout.isatty() else 160)

    def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, title=title, title_justify='left', show_header=len(columns) > 0)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)

    show('Stack', ('', 'installed'), stack_rows(facts))
    if type_rows:
        show('Types of mmvit_ext', ('type', 'registry', 'can be built'), type_rows)
    style = {FATAL: 'bold red', WARNING: 'yellow', NOTE: 'cyan'}
    for problem in problems:
        label = f'[{style[problem.level]}]{problem.level}[/]'
        console.print(f'{label}: {escape(problem.message)} {escape(problem.remedy)}', soft_wrap=True, highlight=False)
    if not problems:
        console.print('No problems.')


def report(facts: Facts, problems: Sequence[Problem]) -> dict[str, Any]:
    """The findings as plain data, for ``--json``."""
    return {
        'version': __version__,
        'ok': not any(problem.level == FATAL for problem in problems),
        'facts': asdict(facts),
        'problems': [asdict(problem) for problem in problems],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 when a problem is fatal, otherwise 0."""
    parser = argparse.ArgumentParser(prog='python -m mmvit_ext.doctor', description='Look the installed stack over.')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    options = parser.parse_args(argv)
    facts = collect()
    problems = diagnose(facts)
    if options.json:
        print(json.dumps(report(facts, problems), indent=2))
    else:
        print_report(facts, problems)
    return 1 if any(problem.level == FATAL for problem in problems) else 0


if __name__ == '__main__':
    sys.exit(main())
