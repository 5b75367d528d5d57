"""Importing the package: silent, light, and without the libraries that only parts of it need."""

import subprocess
import sys
import textwrap

import pytest

from tests.processes import run_program

HIDE = """
    import sys

    class Without:
        finders = list(sys.meta_path)

        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] in {hidden!r}:
                return None
            found = (finder.find_spec(name, path, target) for finder in self.finders if hasattr(finder, 'find_spec'))
            return next((spec for spec in found if spec is not None), None)

        def find_distributions(self, *args):
            for finder in self.finders:
                if hasattr(finder, 'find_distributions'):
                    yield from finder.find_distributions(*args)

    sys.meta_path[:] = [Without()]
"""


def run(code, hidden=()):
    program = textwrap.dedent(HIDE.format(hidden=tuple(hidden))) + textwrap.dedent(code)
    if {'torch', 'mmengine', 'mmcv'} & set(hidden):  # where run_program has imported them
        return run_anew(program)
    return run_program(program)


def run_anew(program):
    command = [sys.executable, '-c', textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_importing_the_package_is_silent_and_loads_no_library():
    result = run_anew("""
        import sys
        import mmvit_ext
        heavy = {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'numpy'} & set(sys.modules)
        assert not heavy, heavy
        assert mmvit_ext.__version__
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


def test_the_datasets_load_no_other_room():
    result = run("""
        import sys
        import mmvit_ext.datasets
        rooms = {name.split('.')[1] for name in sys.modules if name.startswith('mmvit_ext.')}
        assert rooms <= {'datasets', 'config', 'files', 'machine', 'errors', 'registry', 'version'}, rooms
    """)
    assert result.returncode == 0, result.stderr


def test_backbones_work_where_only_mmengine_and_mmcv_are_installed():
    result = run(
        """
        import torch
        from mmengine.registry import MODELS
        model = MODELS.build(dict(type='mmvit_ext.ViT', arch='tiny', num_layers=1, out_indices=0, img_size=32))
        assert model(torch.zeros(1, 3, 32, 48))[0].shape == (1, 192, 2, 3)
        import mmvit_ext.models, mmvit_ext.datasets, mmvit_ext.evaluation, mmvit_ext.engine
        """,
        hidden=['mmseg', 'mmdet', 'mmpretrain'],
    )
    assert result.returncode == 0, result.stderr


def test_all_but_the_parts_of_timms_networks_imports_without_timm():
    result = run(
        """
        import importlib, pkgutil, sys
        import mmvit_ext
        found = [module.name for module in pkgutil.walk_packages(mmvit_ext.__path__, 'mmvit_ext.')]
        parts = {f'mmvit_ext.models.backbones.{name}' for name in ('timm_positions', 'timm_shrunk')}
        assert parts < set(found)
        for name in found:
            if name not in {*parts, 'mmvit_ext.__main__'}:
                importlib.import_module(name)
        assert not [name for name in sys.modules if name.partition('.')[0] == 'timm']
        """,
        hidden=['timm'],
    )
    assert result.returncode == 0, result.stderr


def test_commands_name_what_is_missing_where_only_this_package_is_installed():
    result = run(
        """
        from mmvit_ext.cli.main import run
        for verb in ('train', 'convert', 'models'):
            assert run([verb, 'a', 'b', 'c']) == 2
        assert run(['doctor']) in (0, 1)
        """,
        hidden=['torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'cv2'],
    )
    assert result.returncode == 0, result.stderr
    assert 'mmvit train: error: mmengine is not installed: `mmvit doctor` says' in result.stderr
    assert 'mmvit_ext.ViT' in result.stdout
    assert 'mmvit convert: error: torch is not installed: `mmvit doctor` says' in result.stderr


@pytest.mark.parametrize('library', ['mmseg', 'mmdet', 'mmpretrain'])
def test_scoped_names_are_found_from_each_library_without_custom_imports(library):
    pytest.importorskip(library)
    result = run(f"""
        from mmengine.registry import init_default_scope
        from {library}.registry import MODELS
        init_default_scope('{library}')
        assert MODELS.build(dict(type='mmvit_ext.ViT', arch='tiny', num_layers=1, out_indices=0)).out_strides == (16,)
    """)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('name', ['mmvit_ext', 'mmvit_ext.models'])
def test_both_forms_of_custom_imports_work(name):
    pytest.importorskip('mmseg')
    result = run(f"""
        from mmengine.config import Config
        from mmseg.registry import MODELS
        Config.fromstring("custom_imports = dict(imports=['{name}'])", '.py')
        assert MODELS.get('mmvit_ext.ATMHead').__name__ == 'ATMHead'
    """)
    assert result.returncode == 0, result.stderr


def test_a_library_that_cannot_be_imported_leaves_the_models_that_do_not_need_it():
    result = run("""
        import sys
        from importlib.util import spec_from_loader

        class Broken:
            def find_spec(self, name, path=None, target=None):
                return spec_from_loader(name, self) if name in ('mmseg', 'mmpretrain', 'mmdet') else None

            def create_module(self, spec):
                raise AttributeError('made for another version')

        sys.meta_path.insert(0, Broken())
        import mmvit_ext.models, mmvit_ext.datasets, mmvit_ext.evaluation, mmvit_ext.engine, mmvit_ext.inference
        from mmengine.registry import MODELS
        assert MODELS.build(dict(type='mmvit_ext.ViT', arch='tiny', num_layers=1, out_indices=0)).out_strides == (16,)
    """)
    assert result.returncode == 0, result.stderr
