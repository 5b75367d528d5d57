"""What holds for the whole suite."""

import gc
import importlib
import os
import random
import signal

# Processes of pytest-xdist share the cores; this has to be said before torch comes.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that: the tests that
# interrupt a run would then wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shorten_runs() -> None:
    """Leaves out what takes most of the time of a run of a second and what no test asks for.

    That is the layout of dumped configs, which every checkpoint holds, the record of compilers and versions at the
    beginning of the log, and git, which every checkpoint asks for mmengine's commit.
    """
    for name in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):  # where the two generations look it up
        importlib.import_module(name).FormatCode = lambda text, **_: (text, True)
    importlib.import_module('mmengine.runner.runner').collect_env = dict
    for name in ('mmengine.runner.runner', 'mmengine.hooks.runtime_info_hook'):
        importlib.import_module(name).get_git_hash = str


shorten_runs()


@pytest.fixture(autouse=True, scope='module')
def _no_search_of_the_libraries():
    """Half a million objects of the libraries stay to the end, and collecting garbage would look at each of them.

    Every dataset of mmengine's does so when it is built, which took half of the time of a run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope='module')
def _no_scope_of_another_file():
    """mmengine keeps the default scope of the last runner for the whole process; files must pass alone and together."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True, scope='module')
def _seeded_module():
    """What a module's fixtures draw is the same in each run."""
    _seed()


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws is the same in each run, alone and behind others."""
    _seed()


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002, what the libraries draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_visualizer_of_another_test():
    """mmengine keeps visualizers by name for the whole process; a hook would take the one of an earlier test."""
    classes = [Visualizer]
    while classes:
        kind = classes.pop()
        kind._instance_dict.clear()
        classes += kind.__subclasses__()
