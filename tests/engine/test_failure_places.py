"""Failures of the libraries that only the call stack relates to what the user has written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mmengine.dataset import Compose
from mmengine.registry import MODELS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from mmvit_ext.errors.failures import describe_failure


def sentence(command: Callable[[], object]) -> str | None:
    """What the user is told about what a command raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        command()
    return describe_failure(caught.value)


def broken_step(results: dict) -> dict:
    raise IndexError('too many indices')


def test_an_entry_that_cannot_be_built_is_named_with_the_reason() -> None:
    told = str(sentence(lambda: MODELS.build({'type': 'BaseDataPreprocessor', 'non_blocking': 1, 'extra': 2})))
    assert told.startswith('BaseDataPreprocessor ')
    assert 'extra' in told
    told = str(sentence(lambda: MODELS.build({'type': 'ImgDataPreprocessor', 'mean': [1, 2], 'std': [1, 2]})))
    assert told.startswith('ImgDataPreprocessor cannot be built from the config (AssertionError: ')
    assert '--traceback' in told


def test_a_sample_that_a_step_fails_on_is_named_with_its_files() -> None:
    pipeline = Compose([broken_step])
    told = str(sentence(lambda: pipeline({'img_path': 'a.jpg', 'seg_map_path': 'a.png'})))
    assert 'a.jpg with the label map a.png' in told
    assert 'IndexError: too many indices' in told
    assert sentence(lambda: pipeline({'img': 1})) is None


class Samples:
    """A data set whose only sample breaks in its pipeline."""

    pipeline = Compose([broken_step])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self.pipeline({'img_path': 'a.jpg'})


def test_a_sample_that_fails_in_a_worker_gets_a_way_to_find_it() -> None:
    told = str(sentence(lambda: next(iter(DataLoader(Samples(), num_workers=1)))))  # type: ignore[arg-type]
    assert 'IndexError: too many indices' in told
    assert 'check_dataset.py' in told
    assert '\n' not in told


@pytest.mark.parametrize('iteration', [0, 1])
def test_the_first_iteration_alone_is_the_configs_fault(iteration: int) -> None:
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop._iter = iteration
    told = sentence(lambda: loop.run_iter(None))  # there is no runner: an AttributeError at once
    assert (told is None) == (iteration > 0)
    assert iteration or 'first iteration (AttributeError' in str(told)


@pytest.mark.parametrize(
    'message', ['[gloo/transport] Connection closed by peer', 'CUDA error: unspecified', 'NCCL error']
)
def test_a_fault_of_the_network_or_the_device_is_not_the_configs(message: str) -> None:
    class Broken:
        def call_hook(self, *_: object, **__: object) -> None:
            raise RuntimeError(message)

    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop._iter, loop._runner = 0, Broken()  # type: ignore[assignment]
    assert 'iteration' not in str(sentence(lambda: loop.run_iter(None)))
