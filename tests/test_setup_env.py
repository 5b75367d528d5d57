"""The set-up program, with fake interpreters: nothing is downloaded, compiled or installed."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
setup_env = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup_env)
ONEDL, OPENMMLAB = setup_env.STACKS['onedl'], setup_env.STACKS['openmmlab']

PINS = """\
# comment
addict==2.4.0             # via mmcv
click==8.1.0
cuda-toolkit==13.0.2 ; sys_platform == 'linux'
ninja==1.13.2
onedl-mmcv==2.3.6         # compiled here
packaging==26.3
pip==26.3
psutil==7.2.2
scipy==1.15.3 ; python_full_version < '3.11'
scipy==1.17.1 ; python_full_version >= '3.11'
setuptools==80.10.2
torch==2.11.0
torchvision==0.26.0
wheel==0.48.0
"""

# An interpreter of the user's and, copied by its own `-m venv`, of the environment. It notes each call; a file named
# fail holds a pattern, and a call that matches it prints the file's other lines and fails.
FAKE_PYTHON = """\
#!/bin/bash
state={state}
if [ "$1" = -c ] && [[ "$2" == *importlib.util* ]]; then
    echo '["'"$0"'", {version}, "linux-x86_64", "{tag}", {venv}, {headers}]'; exit 0
fi
call="$*"
echo "${{call//$'\\n'/ }}" >> "$state/calls"
if [ -e "$state/fail" ] && [[ "$call" =~ $(head -n 1 "$state/fail") ]]; then tail -n +2 "$state/fail"; exit 1; fi
if [ -e "$state/interrupt" ] && [[ "$call" =~ $(cat "$state/interrupt") ]]; then
    echo $$ > "$state/pid"; kill -INT $PPID; sleep 60; exit 0
fi
case "$call" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
    "-m pip wheel "*) while [ "$1" != --wheel-dir ]; do shift; done
        env > "$state/build-env"; echo "[3/113] c++"; touch "$2/mmcv-1-cp311.whl";;
esac
exit 0
"""


def fake_python(path, state, version=(3, 11, 7), venv=True, headers=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        FAKE_PYTHON.format(
            state=state,
            version=json.dumps(list(version)),
            tag=f'cp{version[0]}{version[1]}',
            venv=json.dumps(venv),
            headers=json.dumps(headers),
        )
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def path_only(tmp_path, monkeypatch):
    """A PATH with a single folder, for fake programs."""
    folder = tmp_path / 'path'
    folder.mkdir()
    for name in ('bash', 'cat', 'head', 'tail', 'sleep', 'env', 'mkdir', 'cp', 'touch'):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv('PATH', str(folder))
    return folder


class Machine:
    """A fake checkout, cache folder and interpreter."""

    def __init__(self, folder):
        self.root = folder / 'checkout'
        self.cache = folder / 'cache'
        self.state = folder / 'state'
        self.state.mkdir()
        for name in setup_env.PACKAGE_FILES:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text('')
        self.constraints = self.root / ONEDL.constraints
        self.constraints.parent.mkdir()
        self.constraints.write_text(PINS)
        self.python = fake_python(folder / 'python' / 'python3.11', self.state)
        self.venv = self.root / '.venv'

    def setup(self, **arguments):
        self.stream = io.StringIO()
        arguments.setdefault('python', str(self.python))
        return setup_env.Setup(ONEDL, root=self.root, stream=self.stream, **arguments)

    def run(self, **arguments):
        """Run a whole set-up; returns the calls that the fake interpreters saw."""
        (self.state / 'calls').write_text('')
        setup = self.setup(**arguments)
        if setup.state() != 'nothing':
            setup.run()
        return self.calls()

    def calls(self):
        return (self.state / 'calls').read_text().splitlines()

    @property
    def house(self):
        houses = list((self.cache / 'mmvit_ext' / 'wheels').glob('*'))
        assert len(houses) == 1
        return houses[0]

    def fail(self, pattern, output):
        (self.state / 'fail').write_text(f'{pattern}\n{output}\n')

    def heal(self):
        (self.state / 'fail').unlink()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    result = Machine(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(result.cache))
    monkeypatch.setattr(setup_env, 'find_compiler', lambda environ: 'c++')
    monkeypatch.setattr(setup_env, 'check_disk', lambda folder: None)
    monkeypatch.setattr(setup_env, 'machine_build', lambda versions: setup_env.Build('cpu', 'no GPU'))
    return result


def kinds(calls):
    """The calls in short: what each was for."""
    words = {
        '-m venv': 'venv',
        '-m pip wheel': 'compile',
        '--find-links': 'mmcv',
        'mmcv._ext': 'check',
        'mmcv.ops': 'trial',
        ' -e ': 'package',
        '-r ': 'pins',
    }
    return [next(kind for word, kind in words.items() if word in call) for call in calls]


# --- the whole set-up -----------------------------------------------------------------------------------------------


def test_first_setup_compiles_mmcv_and_second_clone_takes_it_from_the_wheelhouse(machine, tmp_path):
    full = ['venv', 'pins', 'pins', 'compile', 'mmcv', 'check', 'package', 'trial']
    assert kinds(machine.run()) == full
    assert [path.name for path in machine.house.iterdir()] == ['mmcv-1-cp311.whl']
    shutil.rmtree(machine.venv)
    assert kinds(machine.run()) == [kind for kind in full if kind != 'compile']


def test_second_setup_does_nothing(machine):
    machine.run()
    assert machine.setup().state() == 'nothing'
    assert machine.run() == []


def test_mmcv_is_kept_out_of_the_general_installation(machine):
    machine.run()
    installed = (machine.venv / 'requirements.txt').read_text()
    assert 'onedl-mmcv' not in installed
    assert 'torch==2.11.0' in installed
    pip_calls = [call for call in machine.calls() if 'pip install' in call]
    assert len(pip_calls) == 4
    assert all('--no-deps' in call for call in pip_calls)


def test_compilation_is_not_cached_by_pip_and_uses_the_installed_torch(machine):
    call = next(call for call in machine.run() if 'pip wheel' in call)
    for option in ('--no-cache-dir', '--no-build-isolation', '--no-binary onedl-mmcv', 'onedl-mmcv==2.3.6'):
        assert option in call
    environ = (machine.state / 'build-env').read_text().splitlines()
    assert {'MMCV_WITH_OPS=1', 'FORCE_CUDA=0', 'CUDA_VISIBLE_DEVICES='} <= set(environ)


def test_changed_constraints_build_the_environment_anew(machine):
    machine.run()
    machine.constraints.write_text(PINS.replace('addict==2.4.0', 'addict==2.4.1'))
    leftover = machine.venv / 'lib-of-an-old-pin'
    leftover.write_text('')
    assert 'venv' in kinds(machine.run())
    assert not leftover.exists()


def test_changed_project_file_installs_only_the_package(machine):
    machine.run()
    (machine.root / 'pyproject.toml').write_text('# changed')
    assert kinds(machine.run()) == ['package']
    assert machine.run() == []


def test_moved_checkout_builds_the_environment_anew(machine):
    machine.run()
    moved = machine.root.with_name('moved')
    machine.root.rename(moved)
    machine.root, machine.venv = moved, moved / '.venv'
    assert 'venv' in kinds(machine.run())


def test_removed_interpreter_builds_the_environment_anew(machine):
    machine.run()
    (machine.venv / 'bin' / 'python').unlink()
    assert machine.setup().state() == 'everything'


def test_chosen_python_replaces_another_one_and_no_choice_keeps_it(machine, tmp_path):
    machine.run()
    newer = str(fake_python(tmp_path / 'newer' / 'python3.12', machine.state, version=(3, 12, 1)))
    assert machine.setup(python=newer).state() == 'nothing'
    assert machine.setup(python=newer, explicit_python=True).state() == 'everything'
    machine.run(python=newer, explicit_python=True)
    assert machine.setup().state() == 'nothing'


def test_rebuild_is_possible_although_everything_is_ready(machine):
    machine.run()
    assert 'compile' in kinds(machine.run(rebuild_mmcv=True))


@pytest.mark.parametrize(
    ('pattern', 'output', 'title', 'remedy'),
    [
        ('-m venv', 'ensurepip is not available', 'virtual environment', 'apt install python3-venv'),
        ('pip install.*-r', 'Temporary failure in name resolution', 'the build tools', 'check the network'),
        ('pip install.*-r', 'OSError: [Errno 28] No space left on device', 'the build tools', 'Free some disk space'),
        ('pip wheel', 'c++: fatal error: Killed signal', 'compile onedl-mmcv', 'MAX_JOBS=1'),
        ('mmcv._ext', 'ImportError: undefined symbol: _ZN2at', 'compile onedl-mmcv', 'REBUILD_MMCV=1'),
        ('pip install.*-e ', 'error: something else', 'mmvit_ext itself', 'Look into the log'),
    ],
)
def test_failing_step_is_named_with_output_log_and_remedy(machine, pattern, output, title, remedy):
    machine.fail(pattern, f'first line\n{output}')
    with pytest.raises(setup_env.SetupError) as caught:
        machine.run()
    message = str(caught.value)
    assert re.match(r'Step \d of 6 failed', message)
    assert title in message
    assert remedy in message
    assert str(machine.venv / 'setup.log') in message
    assert caught.value.tail == ['first line', output]
    assert output in (machine.venv / 'setup.log').read_text()
    assert 'FAILED' in machine.stream.getvalue()


@pytest.mark.parametrize(
    'pattern', ['-m venv', 'pip install.*-r', 'pip wheel', 'mmcv._ext', 'pip install.*-e ', 'mmcv.ops']
)
def test_failed_setup_leaves_nothing_that_looks_finished_and_the_next_one_succeeds(machine, pattern):
    machine.fail(pattern, 'broken')
    with pytest.raises(setup_env.SetupError):
        machine.run()
    assert machine.setup().state() == 'everything'
    wheels = machine.cache / 'mmvit_ext' / 'wheels'
    assert not list(wheels.glob('*.part'))
    if pattern in ('pip wheel', 'mmcv._ext'):
        assert not list(wheels.glob('*')), 'a wheel that was never seen to load must not be kept'
    machine.heal()
    machine.run()
    assert machine.setup().state() == 'nothing'


def test_interrupted_compilation_stops_the_compiler_and_starts_anew(machine):
    (machine.state / 'interrupt').write_text('pip wheel')
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((machine.state / 'pid').read_text()), 0)
    assert not list((machine.cache / 'mmvit_ext' / 'wheels').glob('*'))
    (machine.state / 'interrupt').unlink()
    assert machine.setup().state() == 'everything'
    machine.run()
    assert machine.setup().state() == 'nothing'


def test_interrupt_while_an_old_environment_is_cleared_does_not_make_it_foreign(machine, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    machine.run()
    machine.constraints.write_text(PINS + 'numpy==2.2.6\n')
    with monkeypatch.context() as patch:
        patch.setattr(setup_env.shutil, 'rmtree', interrupt)
        with pytest.raises(KeyboardInterrupt):
            machine.run()
    assert machine.setup().state() == 'everything'
    machine.run()
    assert machine.setup().state() == 'nothing'


def test_trouble_elsewhere_does_not_throw_the_compiled_wheel_away(machine):
    machine.fail('mmcv.ops', 'ImportError: onnx is broken')
    with pytest.raises(setup_env.SetupError, match='trial import'):
        machine.run()
    assert [path.name for path in machine.house.iterdir()] == ['mmcv-1-cp311.whl']


def test_killed_compilation_is_cleaned_up_by_the_next_setup(machine):
    machine.run()
    house = machine.house
    (house / 'mmcv-1-cp311.whl').unlink()
    partial = house.with_name(house.name + '.part')
    partial.mkdir()
    (partial / 'half').write_text('')
    shutil.rmtree(machine.venv)
    assert 'compile' in kinds(machine.run())
    assert not partial.exists()
    assert [path.name for path in house.iterdir()] == ['mmcv-1-cp311.whl']


def test_kept_wheel_that_does_not_load_is_compiled_anew(machine):
    machine.run()
    shutil.rmtree(machine.venv)
    # fails for the house, whose name ends in the platform, and not for the fresh wheel in its .part folder
    machine.fail('find-links.*x86_64 ', 'ImportError: undefined symbol: _ZN2at')
    assert kinds(machine.run())[-6:] == ['mmcv', 'compile', 'mmcv', 'check', 'package', 'trial']
    assert 'does not load' in machine.stream.getvalue()


@pytest.mark.parametrize('foreign', ['folder', 'file', 'link'])
def test_environment_of_somebody_else_is_never_deleted(machine, tmp_path, foreign):
    if foreign == 'folder':
        (machine.venv / 'bin').mkdir(parents=True)
    elif foreign == 'file':
        machine.venv.write_text('')
    else:
        (tmp_path / 'elsewhere').mkdir()
        machine.venv.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(setup_env.SetupError, match='was not made by this program: move it away'):
        machine.run()
    assert machine.venv.exists()


def test_missing_headers_are_told_before_anything_is_made(machine, tmp_path):
    bare = fake_python(tmp_path / 'bare' / 'python3.11', machine.state, headers=False)
    with pytest.raises(setup_env.SetupError, match=r'apt install python3\.11-dev'):
        machine.run(python=str(bare))
    assert not machine.venv.exists()


def test_missing_compiler_is_told_before_anything_is_made_and_only_when_needed(machine, monkeypatch):
    def no_compiler(environ):
        raise setup_env.SetupError('no compiler')

    monkeypatch.setattr(setup_env, 'find_compiler', no_compiler)
    with pytest.raises(setup_env.SetupError, match='no compiler'):
        machine.run()
    assert not machine.venv.exists()
    monkeypatch.setattr(setup_env, 'find_compiler', lambda environ: 'c++')
    machine.run()
    shutil.rmtree(machine.venv)
    monkeypatch.setattr(setup_env, 'find_compiler', no_compiler)
    machine.run()
    assert machine.setup().state() == 'nothing'


def test_cache_folder_that_cannot_be_written_is_named(machine):
    machine.cache.write_text('a file')
    with pytest.raises(setup_env.SetupError, match='XDG_CACHE_HOME'):
        machine.run()


# --- its parts ------------------------------------------------------------------------------------------------------


def test_program_can_be_read_by_old_interpreters():
    ast.parse((ROOT / 'tools' / 'setup_env.py').read_text(), feature_version=(3, 6))


def test_pins_are_sorted_into_the_calls_of_pip():
    pins = setup_env.read_pins(PINS, 'onedl-mmcv')
    assert {line.split('==')[0] for line in pins.bootstrap} == set(setup_env.BOOTSTRAP)
    assert pins.mmcv == 'onedl-mmcv==2.3.6'
    assert "scipy==1.15.3 ; python_full_version < '3.11'" in pins.rest
    assert pins.versions['torch'] == '2.11.0'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (PINS + 'numpy>=2\n', "line 'numpy>=2'"),
        (PINS.replace('torch==2.11.0', ''), 'no pin for torch'),
        (PINS.replace('onedl-mmcv==2.3.6', ''), 'no pin for onedl-mmcv'),
    ],
)
def test_damaged_constraints_are_refused(text, message):
    with pytest.raises(setup_env.SetupError, match=message):
        setup_env.read_pins(text, 'onedl-mmcv')


@pytest.mark.parametrize(
    ('stack', 'expected'),
    [
        (
            ONEDL,
            {
                'torch': '2.11.0',
                'torchvision': '0.26.0',
                'onedl-mmengine': '0.10.12',
                'onedl-mmcv': '2.3.6',
                'onedl-mmdetection': '3.5.1',
                'onedl-mmsegmentation': '1.4.2',
                'onedl-mmpretrain': '1.3.6',
            },
        ),
        (
            OPENMMLAB,
            {
                'torch': '2.1.2',
                'torchvision': '0.16.2',
                'mmengine': '0.10.7',
                'mmcv': '2.1.0',
                'mmdet': '3.3.0',
                'mmsegmentation': '1.2.2',
                'mmpretrain': '1.2.0',
            },
        ),
    ],
    ids=['onedl', 'openmmlab'],
)
def test_shipped_constraints_pin_one_family_and_one_opencv(stack, expected):
    text = (ROOT / stack.constraints).read_text()
    versions = setup_env.read_pins(text, stack.mmcv).versions
    assert expected.items() <= versions.items()
    other = OPENMMLAB if stack is ONEDL else ONEDL
    assert other.mmcv not in versions
    assert [name for name in versions if name.startswith('opencv')] == ['opencv-python-headless']
    assert versions['numpy'].startswith('2.2.' if stack is ONEDL else '1.26.')
    assert not re.search(r'https?:|file:|(^|\s)/', text), 'pins must name no host and no path of a machine'


@pytest.mark.parametrize(
    ('gpus', 'nvcc', 'cuda', 'kind', 'note'),
    [
        ('', 'release 13.0, V13.0.88', (13, 0), 'cpu', 'no NVIDIA GPU'),
        ('GPU 0: X', '', (13, 0), 'cpu', 'no nvcc was found'),
        ('GPU 0: X', 'release 12.4, V12.4.1', (13, 0), 'cpu', 'nvcc is of CUDA 12.4'),
        ('GPU 0: X', 'release 13.0, V13.0.88', None, 'cpu', 'no CUDA'),
        ('GPU 0: X', 'release 13.2, V13.2.1', (13, 0), 'cu130-sm90', 'are present'),
    ],
)
def test_cuda_build_needs_a_gpu_and_the_compiler_that_fits_torch(gpus, nvcc, cuda, kind, note):
    build = setup_env.choose_build(gpus, '9.0\n9.0\n', nvcc, cuda)
    assert build.kind == kind
    assert note in build.note


def test_nvcc_is_looked_for_where_torch_looks_for_it(tmp_path):
    nvcc = tmp_path / 'bin' / 'nvcc'
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    path = {'PATH': str(nvcc.parent)}
    assert setup_env.find_nvcc({'CUDA_HOME': '/cuda', **path}) == '/cuda/bin/nvcc'
    assert setup_env.find_nvcc(path) == str(nvcc)
    assert setup_env.find_nvcc({'PATH': ''}, usual='/usr/local/cuda') == '/usr/local/cuda/bin/nvcc'


def test_gpu_generations_are_part_of_the_key():
    build = setup_env.choose_build('GPU 0', '12.0\n8.6\n', 'release 13.0', (13, 0))
    assert build.kind == 'cu130-sm86-sm120'


def test_cuda_version_of_torch_is_read_from_the_pins():
    for stack, expected in ((ONEDL, (13, 0)), (OPENMMLAB, (12, 1))):
        pins = setup_env.read_pins((ROOT / stack.constraints).read_text(), stack.mmcv)
        assert setup_env.torch_cuda(pins.versions) == expected
    assert setup_env.torch_cuda({'torch': '2.11.0'}) is None


def test_wheelhouse_key_changes_with_everything_the_wheel_depends_on():
    versions = {'onedl-mmcv': '2.3.6', 'torch': '2.11.0'}
    facts = setup_env.PythonFacts('/python', (3, 11, 7), 'linux-x86_64', 'cp311', True, True)
    cpu = setup_env.Build('cpu', '')
    key = setup_env.wheel_key(ONEDL, versions, cpu, facts)
    assert key == 'onedl-mmcv-2.3.6-torch2.11.0-cpu-cp311-linux-x86_64'
    others = {
        setup_env.wheel_key(ONEDL, dict(versions, torch='2.12.0'), cpu, facts),
        setup_env.wheel_key(ONEDL, dict(versions, **{'onedl-mmcv': '2.3.7'}), cpu, facts),
        setup_env.wheel_key(ONEDL, versions, setup_env.Build('cu130-sm90', ''), facts),
        setup_env.wheel_key(ONEDL, versions, cpu, facts._replace(tag='cp312')),
        setup_env.wheel_key(ONEDL, versions, cpu, facts._replace(platform='linux-aarch64')),
        setup_env.wheel_key(OPENMMLAB, dict(versions, mmcv='2.3.6'), cpu, facts),
    }
    assert len(others | {key}) == 7


def test_cuda_build_forces_cuda_and_cpu_build_hides_the_gpu():
    cuda = setup_env.build_environment({'PATH': '/bin'}, setup_env.Build('cu130-sm90', ''), '/venv/bin')
    assert cuda['FORCE_CUDA'] == '1'
    assert 'CUDA_VISIBLE_DEVICES' not in cuda
    assert cuda['PATH'] == f'/venv/bin{os.pathsep}/bin'
    cpu = setup_env.build_environment({'FORCE_CUDA': '1'}, setup_env.Build('cpu', ''), '/venv/bin')
    assert cpu['FORCE_CUDA'] == '0'
    assert cpu['CUDA_VISIBLE_DEVICES'] == ''


def test_variables_of_another_installation_do_not_leak_in():
    environ = setup_env.clean_environment({'PYTHONPATH': '/other', 'PIP_TARGET': '/other', 'LANG': 'C'})
    assert environ == {'LANG': 'C', 'PYTHONNOUSERSITE': '1', 'PIP_USER': '0'}


def test_number_of_jobs_can_be_chosen():
    assert setup_env.jobs({'MAX_JOBS': '3'}) == '3'
    assert int(setup_env.jobs({})) >= 1


def test_this_interpreter_describes_itself():
    facts = setup_env.ask_python(sys.executable)
    assert facts.version == sys.version_info[:3]
    assert facts.tag.startswith(f'cp{sys.version_info[0]}{sys.version_info[1]}')


def test_supported_python_is_taken_as_it_is(tmp_path, path_only):
    wanted = fake_python(tmp_path / 'python3', tmp_path, version=(3, 12, 0))
    assert setup_env.find_python(ONEDL, str(wanted), tmp_path).version == (3, 12, 0)


def test_unsupported_python_is_replaced_by_one_on_the_path(tmp_path, path_only):
    wanted = fake_python(tmp_path / 'python3', tmp_path, version=(3, 12, 0))
    found = fake_python(path_only / 'python3.10', tmp_path, version=(3, 10, 4))
    assert setup_env.find_python(OPENMMLAB, str(wanted), tmp_path).executable == str(found)


def test_dead_shim_is_passed_over_for_what_pyenv_has_installed(tmp_path, path_only):
    shim = path_only / 'python3.11'
    shim.write_text('#!/bin/bash\necho "pyenv: command not found" >&2\nexit 127\n')
    shim.chmod(0o755)
    found = fake_python(tmp_path / '.pyenv' / 'versions' / '3.11.9' / 'bin' / 'python', tmp_path, version=(3, 11, 9))
    wanted = fake_python(tmp_path / 'python3', tmp_path, version=(3, 8, 0))
    assert setup_env.find_python(ONEDL, str(wanted), tmp_path).executable == str(found)


def test_lack_of_a_python_is_one_sentence_with_versions_and_remedy(tmp_path, path_only):
    wanted = fake_python(tmp_path / 'python3', tmp_path, version=(3, 9, 2))
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.find_python(ONEDL, str(wanted), tmp_path)
    message = str(caught.value)
    assert '3.10, 3.11, 3.12, 3.13' in message
    assert 'is 3.9.2' in message
    assert 'apt install python3.11' in message
    assert '\n' not in message


def test_python_without_venv_is_named_with_its_package(tmp_path, path_only):
    wanted = fake_python(tmp_path / 'python3', tmp_path, version=(3, 11, 2), venv=False)
    with pytest.raises(setup_env.SetupError, match=r'apt install python3\.11-venv'):
        setup_env.find_python(ONEDL, str(wanted), tmp_path)


def test_python_that_does_not_exist_is_named(tmp_path, path_only):
    with pytest.raises(setup_env.SetupError, match='nonexistent does not run'):
        setup_env.find_python(ONEDL, 'nonexistent', tmp_path)


@pytest.mark.parametrize('value', [None, '', 'relative/path'])
def test_cache_folder_is_below_home_without_an_absolute_setting(value, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    environ = {} if value is None else {'XDG_CACHE_HOME': value}
    assert setup_env.cache_folder(environ) == tmp_path / '.cache' / 'mmvit_ext'
    assert setup_env.cache_folder({'XDG_CACHE_HOME': '/cache'}) == Path('/cache/mmvit_ext')


def test_lack_of_a_compiler_is_told_with_the_package_to_install(path_only):
    with pytest.raises(setup_env.SetupError, match=r'c\+\+: not found.*apt install g\+\+'):
        setup_env.find_compiler({})


def test_broken_compiler_is_passed_over_and_a_chosen_one_is_told(path_only):
    broken = path_only / 'c++'
    broken.write_text('#!/bin/bash\necho "c++: unrecognized option -std=c++17" >&2\nexit 1\n')
    broken.chmod(0o755)
    with pytest.raises(setup_env.SetupError, match='unrecognized option'):
        setup_env.find_compiler({'CXX': 'c++'})
    good = path_only / 'g++'
    good.write_text('#!/bin/bash\nexit 0\n')
    good.chmod(0o755)
    assert setup_env.find_compiler({}) == 'g++'


def test_full_disk_is_told_before_the_first_download(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda path: usage._replace(free=2**30))
    with pytest.raises(setup_env.SetupError, match=r'1\.0 GiB of free disk space and the set-up needs 10 GiB'):
        setup_env.check_disk(tmp_path / 'not' / 'there' / 'yet')


@pytest.mark.parametrize(
    ('output', 'word'),
    [
        ('OSError: [Errno 28] No space left on device', 'disk space'),
        ("NewConnectionError('Failed to establish a new connection')", 'network'),
        ('ERROR: Could not find a version that satisfies torch==9 (from versions: none)', 'network'),
        ('SSL: CERTIFICATE_VERIFY_FAILED', 'PIP_CERT'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('fatal error: Python.h: No such file or directory', 'python3-dev'),
        ('The virtual environment was not created: ensurepip is not available', 'python3-venv'),
        ("PermissionError: [Errno 13] Permission denied: '/cache'", 'owner'),
        ('something nobody thought of', 'log'),
    ],
)
def test_remedy_follows_from_the_output(output, word):
    assert word in setup_env.advise(output)


@pytest.mark.parametrize(
    ('line', 'shown'),
    [
        ('  [17/113] c++ -MMD -MF /tmp/x.o.d', 'file 17 of 113'),
        ('  Downloading torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl (530.7 MB)', 'torch (530.7 MB)'),
        ('Installing collected packages: torch', 'unpacking'),
        ('Collecting torch', ''),
    ],
)
def test_progress_shows_what_is_worth_showing(line, shown):
    assert setup_env.progress_of(line) == shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_gets_one_rewritten_line_per_step():
    screen = setup_env.Screen(Terminal(), total=2)
    screen.begin('first')
    screen.update('file 1 of 2')
    screen.end()
    text = screen.stream.getvalue()
    assert text.count('\n') == 1
    assert '[1/2] first ... 0 s  file 1 of 2' in text


def test_log_without_a_terminal_gets_a_sign_of_life_now_and_then(monkeypatch):
    screen = setup_env.Screen(io.StringIO(), total=1)
    screen.begin('compile')
    screen.update('file 1 of 2')
    assert screen.stream.getvalue() == '[1/1] compile ...\n'
    screen.last -= screen.HEARTBEAT
    screen.update('file 2 of 2')
    assert screen.stream.getvalue().splitlines()[1].endswith('file 2 of 2')


def test_second_setup_waits_for_the_first_and_says_so(tmp_path):
    screen = setup_env.Screen(io.StringIO(), total=1)
    order = []
    inside = threading.Event()

    def first():
        with setup_env.locked(tmp_path / 'lock', screen, 'never printed'):
            inside.set()
            time.sleep(0.3)
            order.append('first')

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(5)
    with setup_env.locked(tmp_path / 'lock', screen, 'waiting for it'):
        order.append('second')
    thread.join()
    assert order == ['first', 'second']
    assert screen.stream.getvalue() == 'waiting for it\n'


@pytest.mark.parametrize('content', ['', 'no json', '[]', '{"state": "unfinished"}'])
def test_unreadable_or_unfinished_stamp_is_not_ready(tmp_path, content):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').touch()
    (tmp_path / setup_env.STAMP_NAME).write_text(content)
    assert not setup_env.is_ready(setup_env.read_stamp(tmp_path), tmp_path, 'base', None)
    setup_env.write_stamp(tmp_path, {'state': 'ready', 'base': 'base'})
    assert setup_env.is_ready(setup_env.read_stamp(tmp_path), tmp_path, 'base', None)


def test_unknown_stack_ends_with_the_known_ones(capsys):
    assert setup_env.main(['--stack', 'caffe']) == 2
    assert capsys.readouterr().err == 'STACK=caffe is not known: use STACK=onedl or STACK=openmmlab.\n'


def test_failure_ends_with_code_1_and_its_last_sentence_is_the_remedy(monkeypatch, capsys):
    def fail(self):
        raise setup_env.SetupError('Step 1 failed. Do this.', ['what pip said'])

    monkeypatch.setattr(setup_env.Setup, 'state', fail)
    assert setup_env.main([]) == 1
    assert capsys.readouterr().err == '    what pip said\nStep 1 failed. Do this.\n'


def test_interrupt_ends_with_code_130(monkeypatch, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env.Setup, 'state', interrupt)
    assert setup_env.main([]) == 130
    assert 'starts anew' in capsys.readouterr().err


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
