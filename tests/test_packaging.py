"""What an installed package holds beside its modules, and what CI and pre-commit run."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from mmvit_ext.cli.main import main
from mmvit_ext.reproduce import read_ledger, read_records

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what the build reads, so that the build writes nothing into the real checkout."""
    folder = tmp_path_factory.mktemp('checkout')
    ignored = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmvit_ext', 'configs', 'tools', 'results'):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'LICENSE', 'README.md', 'model-index.yml'):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    (folder / 'README.md').touch()
    return folder


def build(checkout, hook, target):
    target.mkdir()
    program = f'import setuptools.build_meta as b; print("built", b.{hook}({str(target)!r}))'
    done = subprocess.run([sys.executable, '-c', program], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split('built ')[-1].strip()


def test_wheel_holds_configs_and_tools_where_mim_looks_for_them(checkout, tmp_path):
    with zipfile.ZipFile(build(checkout, 'build_wheel', tmp_path / 'wheel')) as wheel:
        names = set(wheel.namelist())
    configs = {f'mmvit_ext/.mim/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')}
    assert configs
    assert configs <= names
    assert 'mmvit_ext/.mim/tools/setup_env.py' in names
    assert 'mmvit_ext/registry.py' in names
    assert 'mmvit_ext/interpret/report.html.j2' in names
    assert not [name for name in names if name.startswith(('tests/', 'tools/')) or '__pycache__' in name]


def test_an_installation_brings_the_command(checkout, tmp_path):
    with zipfile.ZipFile(build(checkout, 'build_wheel', tmp_path / 'wheel')) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith('entry_points.txt')]
        lines = wheel.read(name).decode().split()
    assert ' '.join(lines) == '[console_scripts] mmvit = mmvit_ext.cli.main:main'
    assert callable(main)


def test_an_installed_package_has_the_whole_ledger(checkout, tmp_path):
    with zipfile.ZipFile(build(checkout, 'build_wheel', tmp_path / 'wheel')) as wheel:
        wheel.extractall(tmp_path / 'site')
    installed = read_ledger(tmp_path / 'site' / 'mmvit_ext' / '.mim')
    here = read_ledger(ROOT)
    assert [row.name for row in installed.rows] == [row.name for row in here.rows]
    assert read_records(installed) == read_records(here)


def test_editable_installation_links_the_configs_of_the_checkout(checkout, tmp_path):
    build(checkout, 'build_editable', tmp_path / 'editable')
    link = checkout / 'mmvit_ext' / '.mim' / 'configs'
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == (checkout / 'configs').resolve()


def test_neither_family_of_libraries_is_a_hard_dependency(checkout, tmp_path):
    with zipfile.ZipFile(build(checkout, 'build_wheel', tmp_path / 'wheel')) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith('METADATA')]
        needs = re.findall(r'^Requires-Dist: (.*)$', wheel.read(name).decode(), re.MULTILINE)
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
