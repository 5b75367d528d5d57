#!/usr/bin/env python3
"""Build the virtual environment of the checkout: ``make env`` runs this program.

It installs what ``requirements/constraints*.txt`` pins into ``.venv`` (or ``.venv-openmmlab``), with mmcv compiled
once per machine into a wheelhouse below the user's cache folder. A finished environment carries a stamp, so that the
next call costs a fraction of a second; anything else is built anew from nothing, which makes an interrupted set-up
harmless.

The program runs on the system's Python before anything is installed: standard library only, and a syntax that Python
3.6 still reads, so that an old interpreter is answered with a sentence instead of a ``SyntaxError``.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

try:
    import fcntl
except ImportError:  # not a POSIX system; main() says so
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
REVISION = 1  # raise it when the steps below change so that existing environments must be built anew
STAMP_NAME = 'mmvit-env.json'
LOG_NAME = 'setup.log'
FREE_GIB = 10  # the default environment takes 6 GiB, downloads and the unpacked copy of the largest one the rest
PACKAGE_FILES = ('pyproject.toml', 'setup.py', 'mmvit_ext/version.py')
TRIAL = 'import mmcv.ops, mmseg.models, mmdet.models, mmpretrain.models, mmvit_ext.registry'
BOOTSTRAP = ('pip', 'setuptools', 'wheel', 'packaging', 'ninja', 'psutil', 'click')


class Stack(NamedTuple):
    """One set of libraries that goes together."""

    name: str
    venv: str
    constraints: str
    mmcv: str  # the distribution that provides `mmcv`
    pythons: Tuple[Tuple[int, int], ...]  # supported versions, the most proven one first


STACKS = {
    stack.name: stack
    for stack in (
        Stack('onedl', '.venv', 'requirements/constraints.txt', 'onedl-mmcv', ((3, 11), (3, 12), (3, 10), (3, 13))),
        Stack('openmmlab', '.venv-openmmlab', 'requirements/constraints-openmmlab.txt', 'mmcv', ((3, 11), (3, 10))),
    )
}


class SetupError(Exception):
    """A set-up that cannot go on: one sentence for the user, and what the failing command last printed."""

    def __init__(self, message: str, tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.tail = list(tail)


class PythonFacts(NamedTuple):
    """What an interpreter says about itself."""

    executable: str
    version: Tuple[int, int, int]
    platform: str  # sysconfig's, for example 'linux-x86_64'
    tag: str  # 'cp311'
    has_venv: bool
    has_headers: bool


class Build(NamedTuple):
    """How mmcv is to be compiled on this machine."""

    kind: str  # 'cpu', or for example 'cu130-sm90'
    note: str  # why, for the log and the screen


class StackPins(NamedTuple):
    """A constraints file, sorted into the three calls of pip that install it."""

    bootstrap: List[str]
    mmcv: str
    rest: List[str]
    versions: Dict[str, str]


# --- questions to the files and the machine -------------------------------------------------------------------------


def read_pins(text: str, mmcv: str) -> StackPins:
    """Sort the lines of a compiled constraints file.

    Args:
        text: contents of the file, one ``name==version ; marker  # comment`` per line.
        mmcv: name of the distribution that is compiled here and therefore installed by itself.

    Returns:
        The pins that pip and the builds need first, the one of mmcv, all others, and the versions by name (the first
        one where markers give several).

    Raises:
        SetupError: a line that is no pin, or a pin this program needs is missing.
    """
    bootstrap, rest, mmcv_line = [], [], ''
    versions = {}  # type: Dict[str, str]
    for raw in text.splitlines():
        line = raw.split('#')[0].strip()
        if not line:
            continue
        match = re.match(r'([A-Za-z0-9._-]+)==([^\s;]+)', line)
        if match is None:
            raise SetupError(f'The constraints file has the line {line!r}, where name==version was expected.')
        name, version = match.group(1).lower().replace('_', '-'), match.group(2)
        versions.setdefault(name, version)
        if name == mmcv:
            mmcv_line = line
        elif name in BOOTSTRAP:
            bootstrap.append(line)
        else:
            rest.append(line)
    missing = [name for name in (*BOOTSTRAP, mmcv, 'torch') if name not in versions]
    if missing:
        raise SetupError(f'The constraints file has no pin for {", ".join(missing)}; compile it again (CONTRIBUTING).')
    return StackPins(bootstrap, mmcv_line, rest, versions)


def ask_python(python: str) -> Optional[PythonFacts]:
    """Run an interpreter and have it describe itself; ``None`` when it does not run (a dead pyenv shim, say)."""
    program = (
        'import importlib.util as u, json, os, sys, sysconfig as s\n'
        'h = os.path.join(s.get_paths()["include"], "Python.h")\n'
        'abi = getattr(sys, "abiflags", "")\n'
        'print(json.dumps([sys.executable, list(sys.version_info[:3]), s.get_platform(),\n'
        '    "cp%d%d%s" % (sys.version_info[0], sys.version_info[1], abi),\n'
        '    bool(u.find_spec("venv") and u.find_spec("ensurepip")), os.path.exists(h)]))\n'
    )
    try:
        output = subprocess.run(
            [python, '-c', program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        ).stdout
        executable, version, platform, tag, has_venv, has_headers = json.loads(output.decode())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return PythonFacts(executable, (version[0], version[1], version[2]), platform, tag, has_venv, has_headers)


def python_candidates(wanted: str, versions: Sequence[Tuple[int, int]], home: Path) -> Iterator[str]:
    """Name interpreters to try: the wanted one, then pythonX.Y on the path, then what pyenv has installed."""
    yield wanted
    for major, minor in versions:
        found = shutil.which(f'python{major}.{minor}')
        if found:
            yield found
        # a shim on the path answers only while pyenv has that version switched on
        for folder in sorted(home.glob(f'.pyenv/versions/{major}.{minor}.*'), reverse=True):
            yield str(folder / 'bin' / 'python')


def find_python(stack: Stack, wanted: str, home: Optional[Path] = None) -> PythonFacts:
    """Choose the interpreter of the environment.

    Args:
        stack: the stack to be installed, which knows the versions it supports.
        wanted: name or path that comes first.
        home: the user's home folder, where pyenv keeps its versions.

    Returns:
        Facts of the first candidate of a supported version that can make virtual environments.

    Raises:
        SetupError: none was found.
    """
    refused = []
    seen = set()
    for candidate in python_candidates(wanted, stack.pythons, home or Path.home()):
        facts = ask_python(candidate)
        if facts is None or facts.executable in seen:
            continue
        seen.add(facts.executable)
        if facts.version[:2] not in stack.pythons:
            refused.append(f'{candidate} is {dotted(facts.version)}')
        elif not facts.has_venv:
            refused.append(
                f"{candidate} has no 'venv' module (on Debian and Ubuntu: "
                f'apt install python{facts.version[0]}.{facts.version[1]}-venv)'
            )
        else:
            return facts
    versions = ', '.join(dotted(version) for version in sorted(stack.pythons))
    best = dotted(stack.pythons[0])
    reason = f' ({"; ".join(refused)})' if refused else f' ({wanted} does not run)'
    raise SetupError(
        f'The {stack.name} stack needs a Python of version {versions} and none was found{reason}: install Python '
        f'{best} with its venv module and headers (Debian, Ubuntu: apt install python{best} python{best}-venv '
        f'python{best}-dev; anywhere: pyenv install {best}), or name one with make env PYTHON=/path/to/python.'
    )


def dotted(version: Sequence[int]) -> str:
    return '.'.join(str(part) for part in version)


def cache_folder(environ: Optional[Dict[str, str]] = None) -> Path:
    """The folder, outside every checkout, that keeps the compiled wheels and the locks."""
    environ = dict(os.environ) if environ is None else environ
    base = environ.get('XDG_CACHE_HOME') or ''
    # the specification says that a relative path there is to be ignored
    return (Path(base) if os.path.isabs(base) else Path.home() / '.cache') / 'mmvit_ext'


def torch_cuda(versions: Dict[str, str]) -> Optional[Tuple[int, int]]:
    """CUDA version of the pinned torch, read from the CUDA run-time that is pinned beside it."""
    for name in ('cuda-toolkit', 'nvidia-cuda-runtime', 'nvidia-cuda-runtime-cu12'):
        if name in versions:
            major, minor = versions[name].split('.')[:2]
            return int(major), int(minor)
    return None


def output_of(command: Sequence[str]) -> str:
    """What a quick command prints, or an empty text when it is missing or fails."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.decode(errors='replace')


def choose_build(gpus: str, capabilities: str, nvcc: str, cuda: Optional[Tuple[int, int]]) -> Build:
    """Decide between a CPU and a CUDA build of mmcv.

    Args:
        gpus: output of ``nvidia-smi -L``, empty without a working GPU.
        capabilities: output of ``nvidia-smi --query-gpu=compute_cap --format=csv,noheader``.
        nvcc: output of ``nvcc --version``, empty when it is not installed.
        cuda: CUDA version of the pinned torch, ``None`` for a build without.

    Returns:
        The kind of the build, which becomes part of the wheelhouse's key, and the reason.
    """
    if 'GPU' not in gpus:
        return Build('cpu', 'no NVIDIA GPU answers')
    match = re.search(r'release (\d+)\.(\d+)', nvcc)
    if match is None:
        return Build('cpu', 'an NVIDIA GPU is present but no nvcc was found')
    compiler = int(match.group(1)), int(match.group(2))
    if cuda is None or compiler[0] != cuda[0]:
        wanted = f'CUDA {dotted(cuda)}' if cuda else 'no CUDA'
        return Build('cpu', f'nvcc is of CUDA {dotted(compiler)} but torch was built with {wanted}')
    # the GPU's generation is part of the key: the compiled kernels run on no other
    numbers = {digits.replace('.', '') for digits in re.findall(r'\d+\.\d+', capabilities)}
    arch = ''.join(f'-sm{number}' for number in sorted(numbers, key=int))
    return Build(f'cu{cuda[0]}{cuda[1]}{arch}', 'an NVIDIA GPU and nvcc are present')


def find_nvcc(environ: Dict[str, str], usual: str = '/usr/local/cuda') -> str:
    """The CUDA compiler that torch will call: that of CUDA_HOME, the one on the path, or the usual one."""
    home = environ.get('CUDA_HOME') or environ.get('CUDA_PATH')
    if home:
        return os.path.join(home, 'bin', 'nvcc')
    return shutil.which('nvcc', path=environ.get('PATH')) or os.path.join(usual, 'bin', 'nvcc')


def machine_build(versions: Dict[str, str]) -> Build:
    """:func:`choose_build` for this machine."""
    gpus = output_of(['nvidia-smi', '-L'])
    capabilities = output_of(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader']) if gpus else ''
    return choose_build(gpus, capabilities, output_of([find_nvcc(dict(os.environ)), '--version']), torch_cuda(versions))


def wheel_key(stack: Stack, versions: Dict[str, str], build: Build, python: PythonFacts) -> str:
    """Name of the wheelhouse's folder: everything that the compiled mmcv depends on.

    pip would cache the wheel by name and version alone and reuse one that was built against another torch.
    """
    return (
        f'{stack.mmcv}-{versions[stack.mmcv]}-torch{versions["torch"]}-{build.kind}-{python.tag}-'
        f'{python.platform.replace(".", "_")}'
    )


def find_wheel(folder: Path) -> Optional[Path]:
    wheels = sorted(folder.glob('*.whl'))
    return wheels[0] if wheels else None


def find_compiler(environ: Dict[str, str]) -> str:
    """Name the C++ compiler that works, or say what to install.

    Raises:
        SetupError: none of them compiles a line of C++17.
    """
    tried = []
    for name in [environ['CXX']] if environ.get('CXX') else ['c++', 'g++', 'clang++']:
        command = name.split()
        if not command or shutil.which(command[0]) is None:
            tried.append(f'{name}: not found')
            continue
        done = subprocess.run(
            [*command, '-std=c++17', '-x', 'c++', '-fsyntax-only', '-'],
            input=b'#include <optional>\nstd::optional<int> x;\n',
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode == 0:
            return name
        lines = done.stderr.decode(errors='replace').strip().splitlines() or ['fails']
        tried.append(f'{name}: {lines[0]}')
    raise SetupError(
        f'mmcv has to be compiled and no working C++17 compiler was found ({"; ".join(tried)}): install one (Debian, '
        'Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or name it with CXX=.'
    )


def check_disk(folder: Path) -> None:
    """Say so before the first download when the disk is too full.

    Raises:
        SetupError: less than ``FREE_GIB`` GiB are free where `folder` is or will be.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(str(existing)).free / 2**30
    if free < FREE_GIB:
        raise SetupError(
            f'{existing} has {free:.1f} GiB of free disk space and the set-up needs {FREE_GIB} GiB: free some space.'
        )


def jobs(environ: Dict[str, str]) -> str:
    """How many files of mmcv are compiled at a time: one per core, and 2 GiB of memory for each."""
    if environ.get('MAX_JOBS'):
        return environ['MAX_JOBS']
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    except (OSError, ValueError):
        memory = 2.0 * cores
    return str(max(1, min(cores, int(memory // 2))))


# --- the stamp ------------------------------------------------------------------------------------------------------


def digest(*parts: str) -> str:
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()


def base_hash(stack: Stack, root: Path, venv: Path) -> str:
    """Hash of what the installed libraries follow from; another one means a new environment."""
    return digest(str(REVISION), stack.name, str(venv), (root / stack.constraints).read_text())


def package_hash(root: Path) -> str:
    """Hash of what the editable installation of this package follows from."""
    return digest(*((root / name).read_text() for name in PACKAGE_FILES))


def read_stamp(venv: Path) -> Dict[str, Any]:
    """The stamp of an environment, empty when it has none or an unreadable one."""
    try:
        stamp = json.loads((venv / STAMP_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: Dict[str, Any]) -> None:
    temporary = venv / (STAMP_NAME + '.part')
    temporary.write_text(json.dumps(stamp, indent=2) + '\n')
    os.replace(str(temporary), str(venv / STAMP_NAME))


def is_ready(stamp: Dict[str, Any], venv: Path, base: str, python: Optional[PythonFacts]) -> bool:
    """Whether the libraries of an environment can stay.

    Args:
        stamp: the environment's stamp.
        venv: the environment's folder.
        base: the hash that it must have been built from.
        python: the interpreter that the user asked for; ``None`` accepts the one the environment has.
    """
    return (
        stamp.get('state') == 'ready'
        and stamp.get('base') == base
        and (venv / 'bin' / 'python').exists()  # false as well when the interpreter it links to was removed
        and (python is None or stamp.get('python') == dotted(python.version))
    )


# --- running the steps ----------------------------------------------------------------------------------------------

ADVICE = (
    (r'No space left on device|Errno 28', 'Free some disk space and run the same command again.'),
    (r'Disk quota exceeded', 'Your disk quota is used up: free some space and run the same command again.'),
    (
        r'CERTIFICATE_VERIFY_FAILED',
        'The certificate of the package index was refused: behind a company proxy, point PIP_CERT at its certificate.',
    ),
    (
        r'name resolution|Name or service not known|Failed to establish a new connection|Network is unreachable'
        r'|NewConnectionError|NameResolutionError|ConnectTimeout|Read timed out|ReadTimeout|ProxyError'
        r'|Connection aborted|Connection refused|from versions: none',
        'The package index could not be reached: check the network (a proxy goes into https_proxy, a mirror into '
        'PIP_INDEX_URL) and run the same command again.',
    ),
    (r'THESE PACKAGES DO NOT MATCH THE HASHES|IncompleteRead', 'A download was damaged: run the same command again.'),
    (
        r'Killed|internal compiler error|Cannot allocate memory|out of memory|exit status 137',
        'The compiler probably ran out of memory: run the same command again with MAX_JOBS=1.',
    ),
    (
        r'Python\.h: No such file|Python\.h. file not found',
        "The interpreter's headers are missing: install them (Debian, Ubuntu: apt install python3-dev).",
    ),
    (
        r'ensurepip is not available|No module named .?(venv|ensurepip)',
        'The interpreter cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install '
        'python3-venv).',
    ),
    (r'Permission denied|Errno 13', 'A folder named above is not yours to write to: change its owner or use another.'),
    (
        r'undefined symbol',
        'A compiled library does not fit the installed torch: run make env REBUILD_MMCV=1.',
    ),
)


def advise(output: str) -> str:
    """What to do about a failed command, judged by what it printed."""
    for pattern, advice in ADVICE:
        if re.search(pattern, output, re.IGNORECASE):
            return advice
    return 'Look into the log; after the cause is mended, run the same command again.'


class Screen:
    """Progress on the terminal: one line per step that is rewritten, or plain lines where there is no terminal."""

    HEARTBEAT = 60.0  # seconds of silence after which a log file or CI gets a sign of life

    def __init__(self, stream: Any, total: int) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.total = total
        self.number = 0
        self.title = ''
        self.start = 0.0
        self.last = 0.0

    def say(self, text: str) -> None:
        self.stream.write(('\r\033[K' if self.live else '') + text + '\n')
        self.stream.flush()

    def begin(self, title: str) -> None:
        self.number += 1
        self.title = f'[{self.number}/{self.total}] {title}'
        self.start = self.last = time.monotonic()
        if not self.live:
            self.say(f'{self.title} ...')

    def update(self, detail: str) -> None:
        now = time.monotonic()
        text = f'{self.title} ... {duration(now - self.start)}' + (f'  {detail}' if detail else '')
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write('\r\033[K' + text[:width])
            self.stream.flush()
        elif now - self.last >= self.HEARTBEAT:
            self.last = now
            self.say(f'      still at it after {duration(now - self.start)}' + (f': {detail}' if detail else ''))

    def end(self, text: str = 'done') -> None:
        self.say(f'{self.title if self.live else "     "} {text} ({duration(time.monotonic() - self.start)})')


def duration(seconds: float) -> str:
    return f'{int(seconds)} s' if seconds < 100 else f'{int(seconds) // 60} min {int(seconds) % 60} s'


def progress_of(line: str) -> str:
    """The part of a line of pip's or ninja's output that is worth showing, empty for the others."""
    line = line.strip()
    built = re.match(r'\[(\d+)/(\d+)\]', line)
    if built:
        return f'file {built.group(1)} of {built.group(2)}'
    fetched = re.match(r'(?:Downloading|Using cached) ([^\s-]+)[^\s]*?(?: \(([^)]*)\))?$', line)
    if fetched:
        name = os.path.basename(fetched.group(1))
        return name + (f' ({fetched.group(2)})' if fetched.group(2) else '')
    return 'unpacking' if line.startswith('Installing collected packages') else ''


class Runner:
    """Runs the commands of the steps, shows their progress and keeps everything they print in the log."""

    def __init__(self, log: Path, screen: Screen) -> None:
        self.log = log
        self.screen = screen

    def run(self, command: Sequence[str], environ: Dict[str, str]) -> str:
        """Run one command to its end.

        Returns:
            What it printed.

        Raises:
            SetupError: it failed; the message says how to go on.
        """
        lines = []  # type: List[str]
        with self.log.open('a', errors='replace') as log:
            log.write(f'$ {" ".join(command)}\n')
            log.flush()
            # a session of its own, so that a compiler three levels down ends together with this program
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
            reader = threading.Thread(target=self._read, args=(process, log, lines), daemon=True)
            reader.start()
            try:
                while True:
                    try:
                        code = process.wait(timeout=0.2)
                        break
                    except subprocess.TimeoutExpired:
                        shown = (progress_of(line) for line in reversed(lines[-200:]))
                        self.screen.update(next((text for text in shown if text), ''))
                reader.join(timeout=5)
            except BaseException:
                self._stop(process)
                raise
        if code != 0:
            output = ''.join(lines)
            raise SetupError(advise(output), [line.rstrip() for line in lines if line.strip()][-15:])
        return ''.join(lines)

    @staticmethod
    def _read(process: Any, log: Any, lines: List[str]) -> None:
        for raw in iter(process.stdout.readline, b''):
            line = raw.decode(errors='replace')
            lines.append(line)
            # the log is closed under a reader that outlived its command; what it reads then matters to nobody
            with contextlib.suppress(ValueError):
                log.write(line)
                log.flush()

    @staticmethod
    def _stop(process: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, number)
            try:
                process.wait(timeout=5)
                return
            except subprocess.TimeoutExpired:
                continue


@contextlib.contextmanager
def locked(path: Path, screen: Screen, waiting: str) -> Iterator[None]:
    """Hold a file lock; says `waiting` when another set-up has it. It goes with the process, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open('w')
    except OSError as error:
        raise SetupError(
            f'The cache folder {path.parent} cannot be written to ({error.strerror}): name another one with '
            'XDG_CACHE_HOME=/path.'
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            screen.say(waiting)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Setup:
    """The set-up of one stack in one checkout."""

    def __init__(
        self,
        stack: Stack,
        root: Path = ROOT,
        python: str = 'python3',
        explicit_python: bool = False,
        rebuild_mmcv: bool = False,
        stream: Any = None,
    ) -> None:
        self.stack = stack
        self.root = root
        self.wanted = python
        self.explicit_python = explicit_python
        self.rebuild_mmcv = rebuild_mmcv
        self.venv = root / stack.venv
        self.python = str(self.venv / 'bin' / 'python')
        self.cache = cache_folder()
        self.screen = Screen(stream or sys.stdout, total=6)
        self.runner = Runner(self.venv / LOG_NAME, self.screen)
        self.base = base_hash(stack, root, self.venv)
        self.package = package_hash(root)

    def state(self) -> str:
        """What there is to do: ``'nothing'``, the ``'package'`` alone, or ``'everything'``."""
        asked = find_python(self.stack, self.wanted) if self.explicit_python else None
        stamp = read_stamp(self.venv)
        if self.rebuild_mmcv or not is_ready(stamp, self.venv, self.base, asked):
            return 'everything'
        return 'nothing' if stamp.get('package') == self.package else 'package'

    def run(self) -> None:
        """Do whatever :meth:`state` says.

        Raises:
            SetupError: a step failed; its message is meant for the user.
        """
        lock = self.cache / 'locks' / (digest(str(self.venv))[:16] + '.lock')
        waiting = f'Another set-up is at work on {self.venv}: waiting for it.'
        with locked(lock, self.screen, waiting):
            state = self.state()  # again, under the lock: the one waited for may have done it
            if state == 'everything':
                self.build()
            elif state == 'package':
                self.screen.total = 1
                self.install_package()
                write_stamp(self.venv, dict(read_stamp(self.venv), package=self.package))

    def build(self) -> None:
        """Build the environment from nothing."""
        self.refuse_foreign_folder()
        facts = find_python(self.stack, self.wanted)
        pins = read_pins((self.root / self.stack.constraints).read_text(), self.stack.mmcv)
        build = machine_build(pins.versions)
        key = wheel_key(self.stack, pins.versions, build, facts)
        environ = clean_environment(dict(os.environ))
        if self.rebuild_mmcv or find_wheel(self.cache / 'wheels' / key) is None:
            environ['CXX'] = find_compiler(environ)
            if not facts.has_headers:
                raise SetupError(
                    f'mmcv has to be compiled and {facts.executable} has no header files: install them (Debian, '
                    f'Ubuntu: apt install python{dotted(facts.version[:2])}-dev), or name another interpreter with '
                    'make env PYTHON=/path/to/python.'
                )
        check_disk(self.venv)
        check_disk(self.cache)

        self.screen.say(
            f'Setting up {self.stack.name} in {self.venv.name}: Python {dotted(facts.version)}, torch '
            f'{pins.versions["torch"]}, {self.stack.mmcv} {pins.versions[self.stack.mmcv]} for {build.kind} '
            f'({build.note}).'
        )
        self.make_venv(facts, environ)
        self.step(f'pip {pins.versions["pip"]} and the build tools', lambda: self.pip_pins(pins.bootstrap, environ))
        self.step(
            f'torch {pins.versions["torch"]} and {len(pins.rest) - 1} libraries',
            lambda: self.pip_pins(pins.rest, environ),
        )
        self.install_mmcv(self.cache / 'wheels' / key, pins, build, environ)
        self.install_package()
        self.step('trial import', lambda: self.runner.run([self.python, '-c', TRIAL], environ))
        write_stamp(
            self.venv,
            {
                'made by': 'tools/setup_env.py',
                'state': 'ready',
                'stack': self.stack.name,
                'python': dotted(facts.version),
                'mmcv': key,
                'base': self.base,
                'package': self.package,
            },
        )

    def refuse_foreign_folder(self) -> None:
        """Never delete an environment that somebody made by hand.

        Raises:
            SetupError: the folder exists, is not empty and has no stamp of ours.
        """
        occupied = self.venv.is_symlink() or (
            self.venv.exists() and not (self.venv.is_dir() and not any(self.venv.iterdir()))
        )
        if occupied and (self.venv.is_symlink() or not (self.venv / STAMP_NAME).exists()):
            raise SetupError(f'{self.venv} exists and was not made by this program: move it away, then run it again.')

    def step(self, title: str, action: Any) -> Any:
        self.screen.begin(title)
        try:
            result = action()
        except SetupError as error:
            self.screen.end('FAILED')
            step = f'Step {self.screen.number} of {self.screen.total} failed ({title}).'
            log = f'The whole output is in {self.runner.log}.'
            raise SetupError(f'{step} {error} {log}', error.tail) from None
        self.screen.end()
        return result

    def make_venv(self, facts: PythonFacts, environ: Dict[str, str]) -> None:
        def action() -> None:
            self.venv.mkdir(exist_ok=True)
            # the stamp comes first and stays: whenever this ends, the next run knows that it may clear the folder
            write_stamp(self.venv, {'made by': 'tools/setup_env.py', 'state': 'unfinished'})
            for entry in self.venv.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(str(entry))
                elif entry.name != STAMP_NAME:
                    entry.unlink()
            self.runner.run([facts.executable, '-m', 'venv', str(self.venv)], environ)

        self.step(f'virtual environment {self.venv.name}', action)

    def pip(self, arguments: Sequence[str], environ: Dict[str, str]) -> str:
        quiet = ['--no-input', '--disable-pip-version-check', '--progress-bar', 'off', '--no-warn-script-location']
        head = [self.python, '-m', 'pip', arguments[0]]
        return self.runner.run(
            head + (quiet if arguments[0] == 'install' else quiet[:-1]) + list(arguments[1:]), environ
        )

    def pip_pins(self, pins: Sequence[str], environ: Dict[str, str]) -> None:
        # the constraints file is complete, so --no-deps leaves the choice to it alone; without build isolation, the
        # few libraries that come as source are built by the pinned setuptools
        listed = self.venv / 'requirements.txt'
        listed.write_text('\n'.join(pins) + '\n')
        self.pip(['install', '--no-deps', '--no-build-isolation', '-r', str(listed)], environ)

    def install_mmcv(self, house: Path, pins: StackPins, build: Build, environ: Dict[str, str]) -> None:
        """Install mmcv from the wheelhouse, compiling it first when it is not there or does not load."""
        version = f'{self.stack.mmcv} {pins.versions[self.stack.mmcv]}'
        waiting = f'Another set-up is compiling {version}: waiting for it.'
        with locked(self.cache / 'locks' / (house.name + '.lock'), self.screen, waiting):
            title = f'{version} from {house.parent}'
            if not self.rebuild_mmcv and find_wheel(house) is not None:
                try:
                    self.step(title, lambda: self.mmcv_from(house, pins.mmcv, environ))
                    return
                except SetupError:
                    self.screen.say('      The wheel kept there does not load: compiling it anew.')
                    environ['CXX'] = find_compiler(environ)
                    self.screen.number -= 1
            title = f'compile {version} for torch {pins.versions["torch"]}, {build.kind} (once per machine, minutes)'
            self.step(title, lambda: self.compile_mmcv(house, pins, build, environ))

    def mmcv_from(self, folder: Path, pin: str, environ: Dict[str, str]) -> None:
        self.pip(['install', '--no-deps', '--no-index', '--find-links', str(folder), '--force-reinstall', pin], environ)
        # no more than the wheel's own part: what else is broken must not throw away minutes of compiling
        self.runner.run([self.python, '-c', 'import torch, mmcv._ext'], environ)

    def compile_mmcv(self, house: Path, pins: StackPins, build: Build, environ: Dict[str, str]) -> None:
        partial = house.with_name(house.name + '.part')
        if partial.exists():  # left by a build that was killed; ours is the lock
            shutil.rmtree(str(partial))
        partial.mkdir(parents=True)
        arguments = ['wheel', '-v', '--no-cache-dir', '--no-deps', '--no-build-isolation']
        try:
            self.pip(
                [*arguments, '--no-binary', self.stack.mmcv, '--wheel-dir', str(partial), pins.mmcv],
                build_environment(environ, build, os.path.dirname(self.python)),
            )
            self.mmcv_from(partial, pins.mmcv, environ)
            # only a wheel that was seen to load gets into the house, and all of it at once
            if house.exists():
                shutil.rmtree(str(house))
            os.replace(str(partial), str(house))
        finally:
            if partial.exists():
                shutil.rmtree(str(partial))

    def install_package(self) -> None:
        environ = clean_environment(dict(os.environ))
        arguments = ['install', '--no-deps', '--no-index', '--no-build-isolation', '-e', str(self.root)]
        self.step('mmvit_ext itself, editable', lambda: self.pip(arguments, environ))


def clean_environment(environ: Dict[str, str]) -> Dict[str, str]:
    """The caller's environment without what would let another Python installation leak into ours."""
    for name in (
        'PYTHONPATH',
        'PYTHONHOME',
        'PYTHONSTARTUP',
        'VIRTUAL_ENV',
        'PIP_TARGET',
        'PIP_PREFIX',
        '__PYVENV_LAUNCHER__',
    ):
        environ.pop(name, None)
    environ.update(PYTHONNOUSERSITE='1', PIP_USER='0')
    return environ


def build_environment(environ: Dict[str, str], build: Build, scripts: str) -> Dict[str, str]:
    """Environment in which mmcv compiles as `build` says.

    Args:
        environ: the environment of the other commands.
        build: CPU or CUDA.
        scripts: folder of the virtual environment's programs, where ninja is.
    """
    environ = dict(environ, MMCV_WITH_OPS='1', MAX_JOBS=jobs(environ), PYTHONUNBUFFERED='1')
    environ['PATH'] = scripts + os.pathsep + environ.get('PATH', os.defpath)
    if build.kind == 'cpu':
        # mmcv compiles for CUDA whenever torch sees a GPU, with or without nvcc
        environ.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    else:
        environ['FORCE_CUDA'] = '1'
    return environ


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Build the virtual environment of this checkout.')
    parser.add_argument('--stack', default='onedl', help=f'one of {", ".join(STACKS)} (default: %(default)s)')
    parser.add_argument(
        '--python', default='', help='interpreter of the environment (default: a supported one that is found)'
    )
    parser.add_argument('--rebuild-mmcv', action='store_true', help='compile mmcv although the wheelhouse has it')
    parser.add_argument('--quiet', action='store_true', help='print nothing when there is nothing to do')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the program; returns its exit code: 0 ready, 1 a step failed, 2 wrong arguments, 130 interrupted."""
    options = parse(argv)
    if options.stack not in STACKS:
        sys.stderr.write(f'STACK={options.stack} is not known: use STACK={" or STACK=".join(STACKS)}.\n')
        return 2
    if fcntl is None:
        sys.stderr.write('This set-up runs on Linux and macOS; on Windows, use the Windows Subsystem for Linux.\n')
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    stack = STACKS[options.stack]
    try:
        setup = Setup(
            stack,
            python=options.python or sys.executable,
            explicit_python=bool(options.python),
            rebuild_mmcv=options.rebuild_mmcv,
        )
        if setup.state() == 'nothing':
            if not options.quiet:
                print(f'{stack.venv} is ready ({stack.name}): nothing to do.')
            return 0
        setup.run()
    except SetupError as error:
        for line in error.tail:
            sys.stderr.write(f'    {line}\n')
        sys.stderr.write(f'{error}\n')
        return 1
    except KeyboardInterrupt:
        sys.stderr.write('\nInterrupted; the next make env starts anew.\n')
        return 130
    except OSError as error:
        sys.stderr.write(f'{error.filename or "The set-up"}: {error.strerror or error}. {advise(str(error))}\n')
        return 1
    print(f'{stack.venv} is ready ({stack.name}). Next: make demo, make test, or source {stack.venv}/bin/activate')
    return 0


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == '__main__':
    sys.exit(main())
