"""What holds for the whole suite."""

import signal

import pytest
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that: the tests that
# interrupt a run would then wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope='module')
def _no_scope_of_another_file():
    """mmengine keeps the default scope of the last runner for the whole process; files must pass alone and together."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def _no_visualizer_of_another_test():
    """mmengine keeps visualizers by name for the whole process; a hook would take the one of an earlier test."""
    classes = [Visualizer]
    while classes:
        kind = classes.pop()
        kind._instance_dict.clear()
        classes += kind.__subclasses__()
