#!/usr/bin/env python3
"""Build the virtual environment: uv installs the pinned versions, compiles mmcv and keeps it in its cache.

The system's Python runs this for ``make env``: standard library alone, and syntax that Python 3.6 can read.
"""

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACKS = {  # environment, constraints file, distribution of mmcv, minor versions of Python in order of preference
    'onedl': ('.venv', 'requirements/constraints.txt', 'onedl-mmcv', (11, 12, 10, 13)),
    'openmmlab': ('.venv-openmmlab', 'requirements/constraints-openmmlab.txt', 'mmcv', (11, 10)),
}
PACKAGE = ('pyproject.toml', 'setup.py', 'mmvit_ext/version.py')  # the package is installed again if they change
STAMP, FREE_GIB = 'mmvit-env', 10  # the file that marks an environment of ours, the disk space for a new one
NETWORK = 'Check the network (variables https_proxy, PIP_INDEX_URL for a mirror, PIP_CERT for a certificate)'
REMEDIES = (  # what a failed command printed, and what to do about it
    ('no space left|os error 28|quota exceeded', 'Free some disk space'),
    ('resolution|dns error|connect|failed to fetch|timed out|versions: none|certificate|unknownissuer', NETWORK),
    ('killed|internal compiler error|cannot allocate', 'The compiler ran out of memory: set MAX_JOBS=1'),
)


def output(*command, **options):
    """Return what a short command prints, or an empty text if it is missing or fails."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=60, **options).decode().strip()
    except (OSError, subprocess.SubprocessError):
        return ''


def find_python(chosen, minors):
    """Return path, version and headers of the chosen Python, or of a suitable one: this, on the path, in pyenv."""
    ask = 'import sys, sysconfig as s; print(sys.executable, s.get_python_version(), s.get_path("include"), sep="@")'
    pyenv = [path for minor in minors for path in Path.home().glob(f'.pyenv/versions/3.{minor}.*/bin/python')]
    names = [chosen] if chosen else [sys.executable, *(f'python3.{minor}' for minor in minors), *map(str, pyenv)]
    for answer in (output(name, '-c', ask).split('@') for name in names):
        if answer[1:2] and answer[1] in [f'3.{minor}' for minor in minors]:
            return answer
    needed = f'Python 3.{min(minors)} to 3.{max(minors)} is needed, and {names[0]} is another one or does not run: '
    sys.exit(needed + 'apt install python3.11-venv python3.11-dev, pyenv install 3.11, or set PYTHON=/path/to/python.')


def choose_build(pins):
    """Return 'cpu', or for example 'cu13-sm90' if a GPU answers and nvcc has the CUDA version of the pinned torch."""
    gpus = output('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader')
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = f'{home}/bin/nvcc' if home else shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    compiler = re.findall(r'release (\d+)', output(nvcc, '--version'))
    cuda = re.findall(r'^(?:cuda-toolkit|nvidia-cuda-runtime-cu12)==(\d+)', pins, re.MULTILINE)
    fits = re.search(r'\d\.\d', gpus) and cuda and compiler == cuda
    return '-sm'.join(['cu' + cuda[0], *sorted(set(gpus.replace('.', '').split()))]) if fits else 'cpu'


def environment(kind, python):
    """Return the variables for pip and uv: the user's package index, no other Python, and how to compile mmcv."""
    # uv does not read pip's configuration, which may name an institution's mirror and certificate; the first one counts
    variables = {'index-url': 'UV_DEFAULT_INDEX', 'cert': 'SSL_CERT_FILE'}
    config = reversed(re.findall(r"\.(index-url|cert)='(.+)'", output(python, '-I', '-m', 'pip', 'config', 'list')))
    env = {**{variables[option]: value for option, value in config}, **os.environ}
    gib = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30
    env.setdefault('MAX_JOBS', str(max(1, min(os.cpu_count() or 1, gib // 2))))
    env.update(PYTHONPATH='', PYTHONHOME='', PYTHONNOUSERSITE='1', PIP_USER='0', PIP_TARGET='', UV_LOCK_TIMEOUT='7200')
    # mmcv compiles for CUDA wherever torch sees a GPU, with or without nvcc
    return dict(env, FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='') if kind == 'cpu' else dict(env, FORCE_CUDA='1')


def run(env, log, *command, needed=True):
    """Run a command, show the main lines of its output and log all of them; returns whether it did what is needed."""
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    pipes['close_fds'] = False  # it inherits the lock, so that a second set-up waits for what outlives this one
    process = subprocess.Popen(command, env=env, cwd=str(ROOT), start_new_session=True, **pipes)  # type: ignore
    try:
        with log.open('a') as stream:
            for line in process.stdout:
                print(line, end='', file=stream, flush=True)
                if re.match(' *(Downloading|Building|Built|Prepared|Installed) ', line):
                    print('   ', line.strip(), flush=True)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.wait() and needed:
        text = log.read_text()[-3000:]
        remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text.lower())), 'Remove the cause')
        sys.exit(f'{text}{" ".join(command)}\nThis failed (log: {log}). {remedy}, then run the same command again.')
    return process.returncode == 0


def build(venv, constraints, mmcv, python, rebuild):
    """Build the environment from nothing, or only install this package again if no Python is given."""
    kind, compiler = choose_build(constraints.read_text()), os.environ.get('CXX') or 'c++'
    torch, uv = re.findall(r'^(?:torch|uv)==\S+', constraints.read_text(), re.MULTILINE)
    log, target, free = venv / 'setup.log', str(venv / 'bin' / 'python'), shutil.disk_usage(str(ROOT)).free / 2**30
    install = [str(venv / 'bin' / 'uv'), 'pip', 'install', '--python', target, '--no-deps', '-b', str(constraints)]
    if python:
        check = [*compiler.split(), '-std=c++17', '-I', python[2], '-x', 'c++', '-E', '-']
        if not output(*check, input=b'#include <optional>\n#include <Python.h>\n'):
            need = f'mmcv is compiled, and {compiler} does not run, know C++17 or find Python.h: '
            sys.exit(need + f'apt install g++ python{python[1]}-dev, or name others with CXX= and PYTHON=.')
        if free < FREE_GIB:
            sys.exit(f'{ROOT} has {free:.1f} GiB of free disk space and {FREE_GIB} are needed: free some.')
        print(f'{venv.name}: {python[0]}, {torch}, {mmcv} for {kind} (compiled once, in some minutes)', flush=True)
        venv.mkdir(exist_ok=True)
        (venv / STAMP).write_text('unfinished')  # the folder is ours; what was there goes
        for entry in [path for path in venv.iterdir() if path.name != STAMP]:
            shutil.rmtree(str(entry)) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        run(None, log, python[0], '-I', '-m', 'venv', str(venv))
    env = environment(kind, target)
    if python:
        run(env, log, target, '-m', 'pip', 'install', uv)
        if rebuild:
            run(env, log, install[0], 'cache', 'clean', mmcv)
        # mmcv's build ignores the setting 'for', but uv keeps one compiled mmcv for each value of it
        pins = [*install, f'--config-settings-package={mmcv}:for={torch}-{kind}', '-r', str(constraints)]
        # A mirror that lets files expire has uv forget the mmcv compiled of them, unless it looks into its cache alone.
        run(env, log, *pins, '--offline', needed=False) or run(env, log, *pins)
    run(env, log, *install, '--reinstall-package', 'mmvit_ext', '-e', str(ROOT))
    run(env, log, target, '-c', 'import mmcv.ops, mmseg.models, mmdet.models, mmpretrain.models, mmvit_ext.registry')


def main():
    """Bring the environment up to date; the exit code is 1 if that failed and 2 for wrong arguments."""
    parser = argparse.ArgumentParser(description='Build the virtual environment of this checkout.')
    parser.add_argument('--stack', default='onedl', choices=STACKS)
    parser.add_argument('--python', help='interpreter of the environment (default: a suitable one that is found)')
    parser.add_argument('--rebuild-mmcv', action='store_true', help='compile mmcv although uv kept one')
    options = parser.parse_args()
    name, pins, mmcv, minors = STACKS[options.stack]
    venv, stamp, constraints = ROOT / name, ROOT / name / STAMP, ROOT / pins
    with constraints.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print('Another set-up of this checkout, or what it had started, is running: waiting.', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        version, *old = (stamp.read_text() if stamp.exists() else '').split('\0')
        wanted = [str(venv), lock.read(), *((ROOT / name).read_text() for name in PACKAGE)]
        kept = (venv / 'bin' / 'python').exists() and old[:2] == wanted[:2] and not options.rebuild_mmcv
        python = find_python(options.python, minors) if options.python or not kept else ('', version, '')
        if python[1] != version or not kept or old != wanted:
            if venv.is_symlink() or (venv.exists() and not stamp.exists()):
                sys.exit(f'{venv} exists and was not made by this program: move it away, then run it again.')
            build(venv, constraints, mmcv, python if python[1] != version or not kept else None, options.rebuild_mmcv)
            stamp.write_text('\0'.join([python[1], *wanted]))


if __name__ == '__main__':
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit('Interrupted: run the same command again.'))
    main()
