"""What an installed package holds beside its modules, and what CI and pre-commit run."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mmvit_ext.cli.main import main
from mmvit_ext.reproduce import read_ledger, read_records

ROOT = Path(__file__).resolve().parents[1]
INDEX = 'model-index.yml'


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what the build reads, so that the build writes nothing into the real checkout."""
    folder = tmp_path_factory.mktemp('checkout')
    ignored = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmvit_ext', 'configs', 'tools', 'results'):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'LICENSE', 'README.md', INDEX):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def built(checkout, tmp_path_factory):
    """The wheel, which is built from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp('dist')
    run('-m', 'build', '--no-isolation', '--outdir', folder, checkout)
    (wheel,), (sdist,) = folder.glob('*.whl'), folder.glob('*.tar.gz')
    return wheel, sdist


@pytest.fixture(scope='module')
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    shutil.unpack_archive(built[0], folder, 'zip')
    return folder


def run(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_archives_pass_the_check_of_the_package_index(built):
    assert run('-m', 'twine', 'check', '--strict', *built).count('PASSED') == 2


def test_wheel_holds_the_package_and_what_mim_looks_for(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith('/')}
    found = {name.removeprefix('mmvit_ext/.mim/') for name in names if '/.mim/' in name}
    folders = ('configs', 'tools', 'results')
    beside = {f'{folder}/{path}' for folder in folders for path in files_of(ROOT / folder) if '.pyc' not in path}
    assert {'configs/nest/metafile.yml', 'tools/setup_env.py'} < beside
    assert found == {INDEX, *beside}
    modules = {f'mmvit_ext/{name}' for name in files_of(ROOT / 'mmvit_ext') if name.endswith(('.py', '.j2'))}
    modules = {name for name in modules if '/.mim/' not in name}
    assert len(modules) > 100
    rest = {name for name in names if '/.mim/' not in name and '.dist-info/' not in name}
    assert rest == modules


def test_sdist_holds_what_builds_the_wheel_and_no_data(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'LICENSE', 'README.md', 'pyproject.toml', 'setup.py', INDEX, 'configs/segvit/metafile.yml'} < names
    suffixes = {'', '.cfg', '.egg-info', '.in', '.j2', '.json', '.md', '.py', '.sh', '.toml', '.txt', '.yml'}
    assert {Path(name).suffix for name in names} <= suffixes
    assert not [name for name in names if name.startswith('tests/')]


def test_commands_run_from_the_unpacked_wheel(unpacked, tmp_path):
    pytest.importorskip('mmseg')
    pixels = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    for kind, images in dict(images=pixels, masks=pixels[..., 0] // 128).items():
        (tmp_path / 'photos' / kind).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / 'photos' / kind / f'{number}.png')
    program = """if True:
        import mmvit_ext
        from mmvit_ext.cli.main import run
        print(mmvit_ext.__file__)
        assert run(['train', 'photos', '--checkpoint', 'none', '--dry-run']) == 0
        assert run(['reproduce', '--list', '--method', 'nest']) == 0"""
    said = run('-c', program, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(unpacked)})
    assert said.startswith(str(unpacked))
    assert (tmp_path / 'work_dirs/photos/setup/sem-fpn_p2t-mini_photos.py').is_file()
    assert 'nest-t_8xb128-300e_imagenet-224x224' in said


def test_an_installation_brings_the_command(unpacked):
    (path,) = unpacked.glob('*.dist-info/entry_points.txt')
    assert ' '.join(path.read_text().split()) == '[console_scripts] mmvit = mmvit_ext.cli.main:main'
    assert callable(main)


def test_an_installed_package_has_the_whole_ledger(unpacked):
    installed = read_ledger(unpacked / 'mmvit_ext' / '.mim')
    here = read_ledger(ROOT)
    assert [row.name for row in installed.rows] == [row.name for row in here.rows]
    assert read_records(installed) == read_records(here)


def test_editable_installation_links_the_configs_of_the_checkout(checkout, tmp_path):
    program = f'import setuptools.build_meta as b; b.build_editable({str(tmp_path)!r})'
    run('-c', program, cwd=checkout)
    link = checkout / 'mmvit_ext' / '.mim' / 'configs'
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == (checkout / 'configs').resolve()


def test_neither_family_of_libraries_is_a_hard_dependency(unpacked):
    (path,) = unpacked.glob('*.dist-info/METADATA')
    needs = re.findall(r'^Requires-Dist: (.*)$', path.read_text(), re.MULTILINE)
    hard = [need for need in needs if 'extra ==' not in need]
    assert hard
    assert not [need for need in hard if re.match(r'(onedl-|mm|torch)', need)]
    assert any('onedl-mmcv' in need and 'extra == "onedl"' in need.replace("'", '"') for need in needs)
    assert any('mmcv' in need and 'extra == "openmmlab"' in need.replace("'", '"') for need in needs)


def test_pre_commit_runs_what_ci_runs_before_the_tests():
    config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    entries = {hook['entry'] for repo in config['repos'] for hook in repo['hooks']}
    assert all(repo['repo'] == 'local' for repo in config['repos']), 'a remote hook needs the network'
    assert entries == {'make lint', 'make types'}
    ci = (ROOT / '.ci' / 'run').read_text()
    assert 'make lint types\n' in ci
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)
