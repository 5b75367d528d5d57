"""Build steps that pyproject.toml cannot express: the files that mim looks for in an installed package."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_FILES = ('configs', 'tools', 'results', 'model-index.yml')


class BuildWithMim(build_py):
    """Put configs, tools, records and indices into ``mmvit_ext/.mim``, where ``mim`` and the ledger look for them.

    A wheel gets copies, an editable installation links into the checkout.
    """

    def run(self) -> None:
        super().run()
        target = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmvit_ext' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in MIM_FILES:
            source = ROOT / name
            if not source.exists():
                continue
            if self.editable_mode:
                (target / name).symlink_to(os.path.relpath(source, target))
            elif source.is_dir():
                shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
            else:
                shutil.copy2(source, target / name)


setup(cmdclass={'build_py': BuildWithMim})
