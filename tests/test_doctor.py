"""The doctor: every kind of trouble becomes a problem with its level and its remedy."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvit_ext import doctor

ROOT = Path(__file__).resolve().parents[1]
HEALTHY = doctor.Facts(
    python='3.11.7',
    distributions={
        'torch': '2.11.0',
        'torchvision': '0.26.0',
        'numpy': '2.2.6',
        'opencv-python-headless': '4.12.0.88',
        'onedl-mmengine': '0.10.12',
        'onedl-mmcv': '2.3.6',
        'onedl-mmsegmentation': '1.4.2',
        'onedl-mmdetection': '3.5.1',
        'onedl-mmpretrain': '1.3.6',
    },
    torchvision_wants='2.11.0',
    env={'GPU 0': 'Some GPU', 'PyTorch CUDA': '13.0', 'MMCV CUDA': '13.0'},
    types=[doctor.TypeStatus('ViT', 'MODELS', 'mmvit_ext.models.backbones.vit')],
)
NO_GPU = {'PyTorch CUDA': 'None', 'MMCV CUDA': 'not available'}


def facts(add=None, remove=(), **changes):
    """The healthy stack with distributions added or removed and other facts replaced."""
    distributions = {name: version for name, version in HEALTHY.distributions.items() if name not in remove}
    return dataclasses.replace(HEALTHY, distributions={**distributions, **(add or {})}, **changes)


def only(problems):
    assert len(problems) == 1, problems
    return problems[0]


def test_healthy_stack_has_no_problems():
    assert doctor.diagnose(HEALTHY) == []


def test_upstream_stack_has_no_problems():
    upstream = {
        'torch': '2.1.2',
        'torchvision': '0.16.2',
        'numpy': '1.26.4',
        'opencv-python': '4.11.0.86',
        'mmengine': '0.10.7',
        'mmcv': '2.1.0',
        'mmdet': '3.3.0',
        'mmsegmentation': '1.2.2',
        'mmpretrain': '1.2.0',
    }
    assert doctor.diagnose(dataclasses.replace(HEALTHY, distributions=upstream, torchvision_wants='2.1.2')) == []


@pytest.mark.parametrize(
    ('case', 'level', 'words', 'remedy'),
    [
        ({'python': '3.9.2'}, 'fatal', ['Python 3.9.2', '3.10'], 'Use Python 3.10'),
        ({'remove': ['torchvision']}, 'warning', ['torchvision', 'mmpretrain'], 'belongs to torch 2.11.0'),
        (
            {'remove': ['onedl-mmengine']},
            'fatal',
            ['mmengine is not installed'],
            'onedl-mmengine (or mmengine, never both)',
        ),
        ({'remove': ['onedl-mmcv']}, 'fatal', ['mmcv is not installed'], 'onedl-mmcv'),
        ({'remove': ['onedl-mmsegmentation']}, 'warning', ['mmseg', 'decode heads'], 'onedl-mmsegmentation'),
        ({'remove': ['onedl-mmdetection']}, 'note', ['mmdet', 'detection'], 'onedl-mmdetection'),
        ({'remove': ['onedl-mmpretrain']}, 'note', ['mmpretrain', 'classification'], 'onedl-mmpretrain'),
        (
            {'add': {'mmcv': '2.1.0'}},
            'fatal',
            ['onedl-mmcv 2.3.6 and mmcv 2.1.0', 'overwrote'],
            'pip uninstall -y onedl-mmcv mmcv',
        ),
        ({'add': {'mmcv-lite': '2.1.0'}}, 'fatal', ['mmcv-lite 2.1.0'], 'pip uninstall -y onedl-mmcv mmcv-lite'),
        ({'add': {'mmsegmentation': '1.2.2'}}, 'fatal', ['mmsegmentation 1.2.2'], 'pip uninstall -y'),
        (
            {'remove': ['onedl-mmdetection'], 'add': {'mmdet': '3.3.0'}},
            'warning',
            ['families are mixed', 'mmdet 3.3.0'],
            'alone',
        ),
        (
            {'add': {'opencv-python': '4.12.0.88'}},
            'warning',
            ['opencv-python-headless 4.12.0.88 and opencv-python 4.12.0.88'],
            'pip uninstall -y opencv-python-headless opencv-python',
        ),
        (
            {'torchvision_wants': '2.10.0'},
            'fatal',
            ['torchvision 0.26.0 was built for torch 2.10.0', 'torch 2.11.0'],
            'matching pair',
        ),
        (
            {'add': {'torch': '2.1.2'}, 'torchvision_wants': '2.1.2'},
            'fatal',
            ['torch 2.1.2 was built for numpy 1', '2.2.6'],
            'numpy<2',
        ),
        (
            {'errors': {'mmseg': 'AssertionError: MMCV==2.3.6 is used but incompatible'}},
            'fatal',
            ['mmseg is installed but cannot be imported', 'MMCV==2.3.6'],
            'again',
        ),
        (
            {'errors': {'cv2': 'ImportError: libGL.so.1: cannot open shared object file'}},
            'fatal',
            ['cv2', 'libGL.so.1'],
            'install opencv-python-headless',
        ),
        ({'errors': {'mmpretrain': 'ImportError: broken'}}, 'warning', ['mmpretrain', 'broken'], 'again'),
        (
            {'errors': {'mmcv._ext': 'ImportError: _ext.so: undefined symbol: _ZN3c10'}},
            'fatal',
            ['built for another torch', '2.11.0', '_ZN3c10'],
            '--no-binary onedl-mmcv onedl-mmcv==2.3.6',
        ),
        (
            {'errors': {'mmcv._ext': 'ImportError: undefined symbol: x'}, 'managed': True},
            'fatal',
            ['built for another torch'],
            'make env REBUILD_MMCV=1',
        ),
        (
            {'errors': {'mmcv._ext': "ModuleNotFoundError: No module named 'mmcv._ext'"}},
            'fatal',
            ['mmcv._ext was not compiled'],
            'MMCV_WITH_OPS=1',
        ),
        (
            {'errors': {'mmcv._ext': 'ImportError: libcudart.so.13: cannot open shared object file'}},
            'fatal',
            ['cannot be loaded', 'libcudart'],
            'Compile it again',
        ),
        (
            {'env': {**HEALTHY.env, 'MMCV CUDA': 'not available'}},
            'warning',
            ['GPU', 'compiled for the CPU'],
            'nvcc of CUDA 13.0',
        ),
        ({'env': NO_GPU}, 'note', ['no GPU'], 'Only the published recipes'),
        ({'remove': ['opencv-python-headless']}, 'fatal', ['cv2 is not installed'], 'opencv-python-headless'),
        (
            {'types': [doctor.TypeStatus('Net', 'MODELS', 'm', 'ModuleNotFoundError: skimage', 'skimage')]},
            'warning',
            ['mmvit_ext.Net cannot be built', 'skimage'],
            'pip install skimage',
        ),
        (
            {'types': [doctor.TypeStatus('ViT', 'MODELS', 'mmvit_ext.vit', 'SyntaxError: bad')]},
            'fatal',
            ['mmvit_ext.ViT cannot be built', 'SyntaxError: bad'],
            'import mmvit_ext.vit',
        ),
    ],
)
def test_trouble_is_told_with_its_level_and_remedy(case, level, words, remedy):
    problem = only(doctor.diagnose(facts(**case)))
    assert problem.level == level
    assert all(word in problem.message for word in words), problem.message
    assert remedy in problem.remedy


def test_missing_torch_is_one_fatal_problem_and_not_a_list_of_its_consequences():
    problem = only(doctor.diagnose(facts(remove=['torch'], env={}, torchvision_wants=None)))
    assert problem.level == 'fatal'
    assert problem.message == 'torch is not installed.'


def test_local_build_of_torch_matches_its_torchvision():
    assert doctor.diagnose(facts(add={'torch': '2.11.0+cu130'})) == []


def test_fatal_problems_come_first():
    problems = doctor.diagnose(facts(add={'mmcv': '2.1.0', 'opencv-python': '4.12'}, env=NO_GPU))
    assert [problem.level for problem in problems] == ['fatal', 'warning', 'note']


def test_types_are_found_without_importing_them(tmp_path):
    package = tmp_path / 'pack'
    (package / 'models').mkdir(parents=True)
    (package / 'models' / 'net.py').write_text(
        'import no_such_library\n\n'
        '@MODELS.register_module()\nclass Net: ...\n'
        "@HOOKS.register_module(name='Renamed')\nclass Hook: ...\n"
        '@other\nclass Plain: ...\n'
    )
    (package / '.mim').mkdir()
    (package / '.mim' / 'copy.py').write_text('@MODELS.register_module()\nclass Copy: ...\n')
    assert doctor.find_types(package) == [
        doctor.TypeStatus('Net', 'MODELS', 'pack.models.net'),
        doctor.TypeStatus('Renamed', 'HOOKS', 'pack.models.net'),
    ]


def test_every_type_of_the_package_can_be_built_here():
    types = doctor.find_types(ROOT / 'mmvit_ext')
    assert {'ViT', 'ATMHead', 'ATMLoss'} <= {status.name for status in types}
    tried = [doctor.try_type(status) for status in types]
    assert [status for status in tried if status.error] == []


@pytest.fixture
def broken_module(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / 'doctor_broken.py').write_text(text)
        return doctor.TypeStatus('Broken', 'MODELS', 'doctor_broken')

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    sys.modules.pop('doctor_broken', None)


def test_type_of_a_missing_library_names_the_library(broken_module):
    status = doctor.try_type(broken_module('import doctor_no_such_library.part'))
    assert status.needs == 'doctor_no_such_library'


def test_type_of_a_broken_module_names_the_error(broken_module):
    status = doctor.try_type(broken_module("raise RuntimeError('first line\\nsecond line')"))
    assert status.error == 'RuntimeError: first line'
    assert status.needs is None


def test_type_that_no_config_could_find_is_told(broken_module):
    assert 'locations' in doctor.try_type(broken_module('x = 1')).error


def test_types_of_a_missing_openmmlab_library_are_not_told_twice():
    types = [doctor.TypeStatus('ATMHead', 'MODELS', 'm', 'ModuleNotFoundError: mmseg', 'mmseg')]
    problem = only(doctor.diagnose(facts(remove=['onedl-mmsegmentation'], types=types)))
    assert problem.message.startswith('mmseg is not installed')


def crash(connection):
    connection.send('mmcv._ext')
    os.kill(os.getpid(), signal.SIGKILL)


def test_library_that_crashes_the_interpreter_is_named():
    found = doctor.collect(crash)
    assert found.errors == {'mmcv._ext': 'it ended the interpreter (exit code -9)'}
    assert found.distributions['torch'] == torch.__version__.partition('+')[0]
    assert not [problem for problem in doctor.diagnose(found) if 'GPU' in problem.message]


@pytest.mark.parametrize('level', ['fatal', 'warning', 'note'])
def test_exit_code_is_1_only_if_a_problem_is_fatal(level, monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'collect', lambda: HEALTHY)
    problem = doctor.Problem(level, 'It is [so].', 'Do [this].')
    monkeypatch.setattr(doctor, 'diagnose', lambda found: [problem])
    assert doctor.main([]) == (1 if level == 'fatal' else 0)
    assert f'{level}: It is [so]. Do [this].' in capsys.readouterr().out


def test_report_shows_the_stack_and_the_types(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'collect', lambda: HEALTHY)
    doctor.main([])
    text = capsys.readouterr().out
    words = (
        'mmvit_ext.ViT can be built',
        'onedl-mmcv 2.3.6',
        'torch 2.11.0',
        'GPU 0 Some GPU',
        'Python 3.11.7',
        'MMCV CUDA 13.0',
    )
    assert set(words) <= {' '.join(line.split()) for line in text.splitlines()}
    assert 'No problems.' in text


def test_json_holds_facts_and_problems(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'collect', lambda: facts(add={'mmcv': '2.1.0'}))
    assert doctor.main(['--json']) == 1
    found = json.loads(capsys.readouterr().out)
    assert found['ok'] is False
    assert found['facts']['distributions']['torch'] == '2.11.0'
    assert found['problems'][0]['level'] == 'fatal'


def test_bare_python_gets_findings_and_no_traceback():
    # -S leaves the installed libraries out, as on a machine where nothing was set up
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', f'import sys; sys.path.insert(0, {str(ROOT)!r}); '
         'from mmvit_ext.doctor import main; sys.exit(main([]))'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ''
    assert done.returncode == 1
    assert 'fatal: torch is not installed.' in done.stdout
    assert 'fatal: mmengine is not installed.' in done.stdout


def test_broken_mmengine_is_told_with_the_rest_of_the_stack():
    program = (
        'import sys\n'
        'class Broken:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        "        if name.startswith('mmengine'): raise OSError('mmengine is damaged')\n"
        'sys.meta_path.insert(0, Broken())\n'
        'from mmvit_ext import doctor\n'
        'doctor.find_types = lambda package: []\n'
        'sys.exit(doctor.main([]))\n'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ''
    assert done.returncode == 1
    assert 'fatal: mmengine is installed but cannot be imported: OSError: mmengine is damaged.' in done.stdout
    assert f'torch{" " * 36}{torch.__version__.partition("+")[0]}' in done.stdout
