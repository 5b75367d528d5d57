"""The set-up program in a fake checkout, with fake interpreters: nothing is downloaded, compiled or installed."""

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
setup_env = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup_env)

PINS = """\
# comment
cuda-toolkit==13.0.2 ; sys_platform == 'linux'
onedl-mmcv==2.3.6         # compiled here
torch==2.11.0
torchvision==0.26.0
uv==0.13.9
"""

# An interpreter of the user's and, copied by its own `-m venv`, of the environment, and the uv that its pip installs.
# It notes each call. A file named fail holds a pattern: a call that matches prints the file's other lines and fails.
FAKE = """\
#!/bin/bash
state={state}
if [[ "$2" == *sysconfig* ]]; then echo "$0@{version}@/include"; exit 0; fi
if [[ "$*" == *"pip config list" ]]; then exit 0; fi
call="${{0##*/}} $*"
echo "${{call//$'\\n'/ }}" >> "$state/calls"
if [ -e "$state/fail" ] && [[ "$call" =~ $(head -n 1 "$state/fail") ]]; then tail -n +2 "$state/fail"; exit 1; fi
if [ -e "$state/slow" ] && [[ "$call" == *" -r "* ]]; then
    read -r seconds < "$state/slow"  # before the pid is told: the test then removes the file
    sleep "$seconds" & echo $! > "$state/pid"; wait
fi
case "$call" in
    *"-m venv "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";;
    *"-m pip install uv==0.13.9") cp "$0" "${{0%/*}}/uv";;
esac
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path, state, version='3.11'):
    return script(path, FAKE.format(state=state, version=version))


class Machine:
    """A checkout with the program, a compiler and an interpreter."""

    def __init__(self, folder):
        self.root, self.state = folder / 'checkout', folder / 'state'
        self.state.mkdir()
        for name in setup_env.PACKAGE:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text('')
        (self.root / 'tools').mkdir()
        shutil.copy(ROOT / 'tools' / 'setup_env.py', self.root / 'tools')
        self.constraints = self.root / 'requirements' / 'constraints.txt'
        self.constraints.parent.mkdir()
        self.constraints.write_text(PINS)
        self.python = fake_python(folder / 'python' / 'python3.11', self.state)
        self.compiler = script(folder / 'c++', '#!/bin/bash\necho preprocessed\n')

    @property
    def venv(self):
        return self.root / '.venv'

    def start(self, *arguments, python=None, **environ):
        (self.state / 'calls').write_text('')
        clean = {key: value for key, value in os.environ.items() if not key.startswith(('CUDA_', 'PIP_', 'UV_'))}
        return subprocess.Popen(
            [sys.executable, self.root / 'tools' / 'setup_env.py', '--python', python or self.python, *arguments],
            env={**clean, 'CXX': str(self.compiler), 'CUDA_HOME': '/none', **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, code=0, **options):
        """Run the program; returns what it printed."""
        process = self.start(*arguments, **options)
        text = process.communicate(timeout=60)[0]
        assert process.returncode == code, text
        return text

    def calls(self):
        return (self.state / 'calls').read_text().splitlines()

    def kinds(self):
        """The calls of the last run in short: what each was for."""
        words = {'-m venv': 'venv', 'pip install uv': 'uv', 'mmcv.ops': 'trial', ' -e ': 'package', ' -r ': 'pins'}
        return [next((kind for word, kind in words.items() if word in call), call) for call in self.calls()]

    def fail(self, pattern, output):
        (self.state / 'fail').write_text(f'{pattern}\n{output}\n')


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


FULL = ['venv', 'uv', 'pins', 'package', 'trial']


# --- the whole set-up -----------------------------------------------------------------------------------------------


def test_second_setup_does_nothing(machine):
    assert 'torch==2.11.0, onedl-mmcv for cpu' in machine.run()
    assert machine.kinds() == FULL
    assert machine.run() == ''
    assert machine.kinds() == []


def test_uv_gets_the_pins_alone_and_a_key_for_what_the_compiled_mmcv_depends_on(machine):
    machine.run()
    call = next(call for call in machine.calls() if ' -r ' in call)
    assert call.startswith('uv pip install')
    for option in (
        f'--python {machine.venv}/bin/python',
        '--no-deps',
        f'-b {machine.constraints}',
        '--config-settings-package=onedl-mmcv:for=torch==2.11.0-cpu',
    ):
        assert option in call


@pytest.mark.parametrize(
    ('change', 'kinds'),
    [
        (lambda m: m.constraints.write_text(PINS + 'addict==2.4.1\n'), FULL),
        (lambda m: (m.venv / 'bin' / 'python').unlink(), FULL),
        (lambda m: (m.venv / setup_env.STAMP).write_text(''), FULL),
        (lambda m: (m.root / 'pyproject.toml').write_text('# changed'), ['package', 'trial']),
    ],
    ids=['constraints', 'removed interpreter', 'unreadable stamp', 'project file'],
)
def test_only_what_changed_is_done_again(machine, change, kinds):
    machine.run()
    leftover = machine.venv / 'lib' / 'of-an-old-pin'
    leftover.mkdir(parents=True)
    change(machine)
    machine.run()
    assert machine.kinds() == kinds
    assert leftover.exists() == (kinds != FULL)
    machine.run()
    assert machine.kinds() == []


def test_moved_checkout_builds_the_environment_anew(machine):
    machine.run()
    machine.root = machine.root.rename(machine.root.with_name('moved'))
    machine.constraints = machine.root / 'requirements' / 'constraints.txt'
    machine.run()
    assert machine.kinds() == FULL


def test_chosen_python_replaces_another_one(machine, tmp_path):
    machine.run()
    newer = fake_python(tmp_path / 'newer' / 'python3.12', machine.state, version='3.12')
    machine.run(python=newer)
    assert machine.kinds() == FULL
    machine.run(python=newer)
    assert machine.kinds() == []


def test_the_network_is_asked_only_for_what_the_cache_lacks(machine):
    machine.run()
    assert ' --offline' in next(call for call in machine.calls() if ' -r ' in call)
    machine.fail('--offline', 'error: torch was not found in the cache, and the network is disabled')
    machine.run('--rebuild-mmcv')
    assert machine.kinds() == ['venv', 'uv', 'uv cache clean onedl-mmcv', 'pins', *FULL[2:]]
    assert [' --offline' in call for call in machine.calls() if ' -r ' in call] == [True, False]


def test_rebuilding_mmcv_drops_the_kept_one(machine):
    machine.run()
    machine.run('--rebuild-mmcv')
    assert machine.kinds() == ['venv', 'uv', 'uv cache clean onedl-mmcv', *FULL[2:]]


@pytest.mark.parametrize(
    ('pattern', 'output', 'remedy'),
    [
        ('-m venv', 'OSError: [Errno 28] No space left on device', 'Free some disk space'),
        ('pip install uv', "NewConnectionError: Temporary failure in name resolution'", 'Check the network'),
        (
            'pip install uv',
            'ERROR: Could not find a version that satisfies uv (from versions: none)',
            'Check the network',
        ),
        (' -r ', 'error: Failed to fetch: `https://host/torch`\n  Caused by: operation timed out', 'Check the network'),
        (' -r ', 'invalid peer certificate: UnknownIssuer', 'PIP_CERT'),
        (' -r ', 'c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        (' -e ', 'error: something else', 'Remove the cause'),
        ('mmcv.ops', 'ImportError: onnx is broken', 'Remove the cause'),
    ],
)
def test_failing_step_is_told_with_output_log_and_remedy_and_the_next_setup_succeeds(machine, pattern, output, remedy):
    machine.fail(pattern, f'first line\n{output}')
    text = machine.run(code=1)
    last = text.splitlines()[-1]
    assert remedy in last
    assert f'log: {machine.venv}/setup.log' in last
    assert output in text
    assert output in (machine.venv / 'setup.log').read_text()
    assert 'Traceback' not in text
    (machine.state / 'fail').unlink()
    machine.run()
    assert machine.kinds() == FULL


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_setup_stops_the_compiler_and_the_next_one_starts_anew(machine, number):
    (machine.state / 'slow').write_text('60\n')
    process = machine.start()
    pid = wait_for(machine.state / 'pid')
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert text.endswith('Interrupted: run the same command again.\n')
    deadline = time.monotonic() + 30
    while Path(f'/proc/{pid}').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f'/proc/{pid}').exists() or 'Z' in Path(f'/proc/{pid}/stat').read_text()
    (machine.state / 'slow').unlink()
    machine.run()
    assert machine.kinds() == FULL


def wait_for(path):
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(path.read_text())


def test_killed_setup_does_not_make_the_folder_foreign(machine):
    (machine.state / 'slow').write_text('60\n')
    process = machine.start()
    orphan = wait_for(machine.state / 'pid')
    process.kill()
    process.wait(timeout=60)
    (machine.state / 'slow').unlink()
    second = machine.start()
    assert 'Another set-up of this checkout' in second.stdout.readline()
    assert machine.kinds() == []  # two installers in one folder would spoil it
    os.kill(orphan, signal.SIGTERM)
    text = second.communicate(timeout=60)[0]
    assert second.returncode == 0, text
    assert machine.kinds() == FULL


def test_two_setups_at_once_do_the_work_once(machine):
    (machine.state / 'slow').write_text('1\n')
    first = machine.start()
    wait_for(machine.state / 'pid')
    second = subprocess.Popen(first.args, env={**os.environ, 'CXX': str(machine.compiler)})
    assert second.wait(timeout=60) == 0
    assert first.poll() == 0
    first.communicate()
    assert machine.kinds() == FULL


@pytest.mark.parametrize('foreign', ['folder', 'file', 'link'])
def test_environment_of_somebody_else_is_never_deleted(machine, tmp_path, foreign):
    if foreign == 'folder':
        (machine.venv / 'bin').mkdir(parents=True)
    elif foreign == 'file':
        machine.venv.write_text('')
    else:
        (tmp_path / 'elsewhere').mkdir()
        machine.venv.symlink_to(tmp_path / 'elsewhere')
    assert 'was not made by this program: move it away' in machine.run(code=1)
    assert machine.venv.exists()
    assert machine.kinds() == []


@pytest.mark.parametrize('compiler', ['missing', 'broken'])
def test_lack_of_a_compiler_or_of_headers_is_told_before_anything_is_made(machine, compiler):
    if compiler == 'missing':
        machine.compiler.unlink()
    else:
        script(machine.compiler, '#!/bin/bash\necho "Python.h: No such file" >&2\nexit 1\n')
    text = machine.run(code=1)
    assert str(machine.compiler) in text
    assert 'apt install g++ python3.11-dev' in text
    assert not machine.venv.exists()


def test_full_disk_is_told_before_anything_is_made(machine, monkeypatch):
    usage = shutil.disk_usage(machine.root)
    monkeypatch.setattr(setup_env, 'ROOT', machine.root)
    monkeypatch.setattr(setup_env, 'output', lambda *command, **options: 'works')
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda path: usage._replace(free=2**30))
    with pytest.raises(SystemExit, match=r'1\.0 GiB of free disk space and 10 are needed'):
        setup_env.build(machine.venv, machine.constraints, 'onedl-mmcv', ['python', '3.11', '/include'], False)
    assert not machine.venv.exists()


# --- its parts ------------------------------------------------------------------------------------------------------


def test_program_can_be_read_by_old_interpreters():
    ast.parse((ROOT / 'tools' / 'setup_env.py').read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ('stack', 'numpy', 'cuda', 'expected'),
    [
        (
            'onedl',
            '2.2.',
            ('13', 'cu13-sm90'),
            'torch==2.11.0 torchvision==0.26.0 onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1 '
            'onedl-mmsegmentation==1.4.2 onedl-mmpretrain==1.3.6',
        ),
        (
            'openmmlab',
            '1.26.',
            ('12', 'cu12-sm90'),
            'torch==2.1.2 torchvision==0.16.2 mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2 '
            'mmpretrain==1.2.0',
        ),
    ],
)
def test_shipped_constraints_pin_one_family_one_opencv_and_all_that_uv_needs(stack, numpy, cuda, expected, monkeypatch):
    _, constraints, mmcv, _ = setup_env.STACKS[stack]
    text = (ROOT / constraints).read_text()
    lines = [line.split('#')[0].strip() for line in text.splitlines() if line.split('#')[0].strip()]
    assert all(re.match(r'[a-z0-9.-]+==\S+', line) for line in lines)
    versions = dict(reversed([line.split(';')[0].strip().split('==') for line in lines]))
    assert set(expected.split()) <= {f'{name}=={version}' for name, version in versions.items()}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    build = project['tool']['uv']['extra-build-dependencies'][mmcv]
    assert {'torch', 'ninja', 'setuptools'} <= set(build)
    needed = {re.match(r'[\w.-]+', name)[0] for name in project['project']['dependencies']}
    assert {*build, *needed, 'uv', 'pip', 'pycocotools'} <= set(versions)
    for flags in ('CFLAGS', 'CXXFLAGS'):  # they replace the flags of Python, which optimise and add debug information
        assert '-O3' in project['tool']['uv']['extra-build-variables'][mmcv][flags].split()
    assert len({'onedl-mmcv', 'mmcv'} & set(versions)) == 1
    assert [name for name in versions if name.startswith('opencv')] == ['opencv-python-headless']
    assert versions['numpy'].startswith(numpy)
    assert not re.search(r'https?:|file:|(^|\s)/', text), 'pins must name no host and no path of a machine'
    major, kind = cuda
    monkeypatch.setattr(setup_env, 'output', lambda *c: '9.0' if c[0] == 'nvidia-smi' else f'release {major}.2, V')
    assert setup_env.choose_build(text) == kind


@pytest.mark.parametrize(
    ('gpus', 'nvcc', 'kind'),
    [
        ('', 'release 13.0, V13.0.88', 'cpu'),
        ('NVIDIA-SMI has failed', 'release 13.0, V13.0.88', 'cpu'),
        ('9.0', '', 'cpu'),
        ('9.0', 'release 12.4, V12.4.1', 'cpu'),
        ('9.0\n9.0', 'release 13.2, V13.2.1', 'cu13-sm90'),
        ('12.0\n8.6', 'release 13.0', 'cu13-sm120-sm86'),
    ],
)
def test_cuda_build_needs_a_gpu_and_the_compiler_that_fits_torch(gpus, nvcc, kind, monkeypatch):
    monkeypatch.setattr(setup_env, 'output', lambda *command: gpus if command[0] == 'nvidia-smi' else nvcc)
    assert setup_env.choose_build(PINS) == kind
    assert setup_env.choose_build('torch==2.11.0\n') == 'cpu'


def test_nvcc_is_looked_for_where_torch_looks_for_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(setup_env, 'output', lambda *command: asked.append(command[0]) or '')
    nvcc = script(tmp_path / 'nvcc', '')
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CUDA_HOME', '/cuda')
    setup_env.choose_build(PINS)
    monkeypatch.delenv('CUDA_HOME')
    monkeypatch.delenv('CUDA_PATH', raising=False)
    setup_env.choose_build(PINS)
    monkeypatch.setenv('PATH', '')
    setup_env.choose_build(PINS)
    assert asked[1::2] == ['/cuda/bin/nvcc', str(nvcc), '/usr/local/cuda/bin/nvcc']


def test_cuda_build_forces_cuda_and_cpu_build_hides_the_gpu(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    cuda = setup_env.environment('cu13-sm90', 'python')
    assert cuda['FORCE_CUDA'] == '1'
    assert 'CUDA_VISIBLE_DEVICES' not in cuda
    cpu = setup_env.environment('cpu', 'python')
    assert cpu['FORCE_CUDA'] == '0'
    assert cpu['CUDA_VISIBLE_DEVICES'] == ''


def test_index_and_certificate_of_pip_are_passed_on_to_uv(monkeypatch):
    config = (
        ":env:.cert='/env.pem'\nglobal.cert='/global.pem'\nglobal.extra-index-url='https://other/simple'\n"
        "global.index-url='https://mirror/simple'\n"
    )
    monkeypatch.setattr(setup_env, 'output', lambda *command: config)
    for name in ('UV_DEFAULT_INDEX', 'SSL_CERT_FILE'):
        monkeypatch.delenv(name, raising=False)
    environ = setup_env.environment('cpu', 'python')
    assert environ['UV_DEFAULT_INDEX'] == 'https://mirror/simple'
    assert environ['SSL_CERT_FILE'] == '/env.pem'
    monkeypatch.setenv('UV_DEFAULT_INDEX', 'https://chosen/simple')
    assert setup_env.environment('cpu', 'python')['UV_DEFAULT_INDEX'] == 'https://chosen/simple'


def test_variables_of_another_installation_do_not_leak_in(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', '/other')
    monkeypatch.setenv('PIP_TARGET', '/other')
    monkeypatch.setenv('MAX_JOBS', '3')
    environ = setup_env.environment('cpu', 'python')
    assert environ['PYTHONPATH'] == environ['PIP_TARGET'] == ''
    assert environ['MAX_JOBS'] == '3'
    monkeypatch.delenv('MAX_JOBS')
    assert int(setup_env.environment('cpu', 'python')['MAX_JOBS']) >= 1


def test_python_is_this_one_or_else_one_of_the_path_or_of_pyenv(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / 'path'
    shim = script(path / 'python3.11', '#!/bin/bash\necho "pyenv: command not found" >&2\nexit 127\n')
    monkeypatch.setenv('PATH', f'{path}{os.pathsep}/bin')
    assert setup_env.find_python('', [sys.version_info[1]])[0] == sys.executable
    monkeypatch.setattr(setup_env.sys, 'executable', str(fake_python(tmp_path / 'python3', tmp_path, '3.8')))
    pyenv = fake_python(tmp_path / '.pyenv' / 'versions' / '3.11.9' / 'bin' / 'python', tmp_path)
    assert setup_env.find_python('', (11,)) == [str(pyenv), '3.11', '/include']
    fake_python(shim, tmp_path)
    assert setup_env.find_python('', (11,))[0] == str(shim)


@pytest.mark.parametrize('chosen', ['old', 'nonexistent'])
def test_lack_of_a_python_is_one_sentence_with_versions_and_remedy(tmp_path, chosen):
    fake_python(tmp_path / 'old', tmp_path, '3.9')
    with pytest.raises(SystemExit) as caught:
        setup_env.find_python(str(tmp_path / chosen), (11, 12, 10, 13))
    message = str(caught.value)
    assert f'Python 3.10 to 3.13 is needed, and {tmp_path / chosen} is' in message
    assert 'apt install python3.11' in message
    assert '\n' not in message


def test_unknown_stack_ends_with_the_known_ones(machine):
    text = machine.run('--stack', 'caffe', code=2)
    assert 'onedl' in text
    assert 'openmmlab' in text


# --- make -----------------------------------------------------------------------------------------------------------


def dry_run(*arguments, **environ):
    # the variables of the make that runs the tests would pass its own choices on
    clean = {key: value for key, value in os.environ.items() if key not in ('MAKEFLAGS', 'MAKEOVERRIDES', 'MFLAGS')}
    for name in ('STACK', 'PYTHON', 'ARGS', 'REBUILD_MMCV'):
        clean.pop(name, None)
    return subprocess.run(
        ['make', '-n', *arguments], cwd=ROOT, env={**clean, **environ}, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize('target', ['demo', 'demo-det', 'test', 'lint', 'types', 'bench', 'doctor'])
@pytest.mark.parametrize(('stack', 'venv'), [('onedl', '.venv/'), ('openmmlab', '.venv-openmmlab/')])
def test_every_target_sets_the_environment_of_its_stack_up_first(target, stack, venv):
    lines = dry_run(target, f'STACK={stack}').splitlines()
    setup = next(index for index, line in enumerate(lines) if f"setup_env.py --stack '{stack}'" in line)
    use = next(index for index, line in enumerate(lines) if f'{venv}bin/python' in line)
    assert setup < use


def test_only_a_chosen_python_is_imposed_on_the_environment():
    assert '--python ' not in dry_run('env')
    assert "--python '/my/python'" in dry_run('env', 'PYTHON=/my/python')
    assert "--python '/my/python'" in dry_run('env', PYTHON='/my/python')


def test_make_alone_lists_the_targets():
    text = subprocess.run(['make'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ('env', 'demo', 'demo-det', 'test', 'lint', 'types', 'bench', 'doctor', 'clean'):
        assert f'make {target} ' in text
