"""A resumed run is the run without the interruption: bit by bit on a CPU, also after many kills."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.engine.hooks.checkpoint import accumulated_iterations
from mmvit_ext.engine.hooks.exact_resume import ExactResumeHook
from mmvit_ext.engine.hooks.seeded_loading import (
    PlacedBatchSampler,
    PlacedIndex,
    SeededDataset,
    capture_state,
    restore_state,
    seeded_loader,
)
from tests.engine import toy_run


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of the run without interruptions that has some options, trained once."""
    folders: dict[str, Path] = {}

    def trained(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in folders:
            folder = tmp_path_factory.mktemp('whole') / 'whole'
            toy_run.run(folder, **options)
            folders[key] = folder
        return folders[key]

    return trained


def assert_same_run(one: Path, other: Path, name: str) -> None:
    """Losses and sampled indices of every iteration, and everything in the last checkpoint."""
    assert toy_run.record(one) == toy_run.record(other)
    first, second = (torch.load(folder / name, weights_only=False) for folder in (one, other))
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'exact_resume'):
        assert_equal(first[key], second[key], key)


def assert_equal(one: Any, other: Any, where: str) -> None:
    if torch.is_tensor(one):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f'{where}.{index}')
    elif not callable(one):
        assert one == other, where


def test_half_and_half_equal_the_whole_in_every_bit(tmp_path: Path) -> None:
    # 13 iterations: past the end of a pass over the data, with a validation in each half
    toy_run.run(tmp_path / 'whole', iterations=13, amp=True)
    toy_run.run(tmp_path / 'halves', iterations=7, amp=True)
    toy_run.run(tmp_path / 'halves', iterations=13, amp=True, resume=True, workers=2)  # workers change nothing
    assert len(toy_run.record(tmp_path / 'whole')) == 13
    assert_same_run(tmp_path / 'whole', tmp_path / 'halves', 'iter_13.pth')


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_half_and_half_equal_the_whole_in_each_setting(
    tmp_path: Path, workers: int, amp: bool, sampler: str, whole: Callable[..., Path]
) -> None:
    options = {'amp': amp, 'sampler': sampler}
    toy_run.run(tmp_path / 'halves', iterations=7, workers=workers, **options)
    toy_run.run(tmp_path / 'halves', iterations=14, workers=workers, resume=True, **options)
    assert_same_run(whole(iterations=14, **options), tmp_path / 'halves', 'iter_14.pth')


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_epochs_resume_exactly_at_their_end_and_inside(tmp_path: Path, workers: int) -> None:
    toy_run.run(tmp_path / 'whole', epochs=3, workers=workers)
    toy_run.run(tmp_path / 'halves', epochs=2, workers=workers)
    toy_run.run(tmp_path / 'halves', epochs=3, workers=workers, resume=True)
    assert_same_run(tmp_path / 'whole', tmp_path / 'halves', 'epoch_3.pth')
    # 6 iterations per epoch: told to end in the middle of the second and at the end of the third
    for at in (8, 18 - 6):
        told = {'type': 'CallHook', 'at': at, 'action': 'os.kill(os.getpid(), 15)'}
        process = toy_run.start(tmp_path / 'told', epochs=3, workers=workers, resume=True, hooks=[told])
        process.join(toy_run.LIMIT)
        assert process.exitcode == 75
    toy_run.run(tmp_path / 'told', epochs=3, workers=workers, resume=True)
    assert_same_run(tmp_path / 'whole', tmp_path / 'told', 'epoch_3.pth')


@pytest.mark.slow
def test_without_the_hook_a_resumed_run_is_another_one(tmp_path: Path) -> None:
    """What the hook is for; should the libraries learn it, the hook can go."""
    toy_run.run(tmp_path / 'whole', iterations=8, exact=False)
    toy_run.run(tmp_path / 'halves', iterations=4, exact=False)
    toy_run.run(tmp_path / 'halves', iterations=8, exact=False, resume=True)
    whole, halves = toy_run.record(tmp_path / 'whole'), toy_run.record(tmp_path / 'halves')
    assert [whole[number] == halves[number] for number in (1, 4, 5, 8)] == [True, True, False, False]


def kill_and_resume(tmp_path: Path, kills: int, iterations: int) -> None:
    """Kills a run at random moments until it is done, and compares it with the one that was left alone."""
    options = {'iterations': iterations, 'interval': 1, 'workers': 0, 'amp': True, 'ballast': 200_000}
    toy_run.run(tmp_path / 'whole', **{**options, 'interval': iterations})
    killed = tmp_path / 'killed'
    generator = random.Random(7)
    for kill in range(1, kills + 1):
        process = toy_run.start(killed, resume=True, **options)
        # every kill is some iterations later than the one before, at a moment within an iteration or a save
        goal = min(kill * (iterations - 2) // kills, iterations - 2)
        deadline = time.monotonic() + toy_run.LIMIT
        while toy_run.saved(killed) < goal and time.monotonic() < deadline:
            assert process.is_alive(), (tmp_path / 'output.txt').read_text()[-3000:]
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.02))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    toy_run.run(killed, resume=True, **options)
    assert_same_run(tmp_path / 'whole', killed, f'iter_{iterations}.pth')


def test_two_kills_change_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 2, 30)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 20, 80)


@pytest.mark.slow
def test_a_cut_off_last_checkpoint_costs_the_way_back_and_nothing_else(
    tmp_path: Path, whole: Callable[..., Path]
) -> None:
    toy_run.run(tmp_path / 'cut', iterations=6)
    last = tmp_path / 'cut' / 'iter_6.pth'
    last.write_bytes(last.read_bytes()[:3000])
    toy_run.run(tmp_path / 'cut', iterations=9, resume=True)
    assert_same_run(whole(iterations=9), tmp_path / 'cut', 'iter_9.pth')
    text = (tmp_path / 'output.txt').read_text()
    assert f'{last} is cut off (3000 bytes, ' in text
    assert f'resuming from the older {last.with_name("iter_4.pth")} of iteration 4' in text


# Being told to end


@pytest.mark.parametrize(
    ('at', 'number', 'expected', 'hooks'),
    [
        (5, 15, 'preempted.pth', []),
        pytest.param(5, 2, 'preempted.pth', [], marks=pytest.mark.slow),
        pytest.param(6, 15, 'iter_6.pth', [], marks=pytest.mark.slow),  # just saved
        pytest.param(-4, 15, 'preempted.pth', [], marks=pytest.mark.slow),  # within the validation after iteration 4
        (-4, 15, 'iter_4.pth', [{'type': 'EMAHook', 'momentum': 0.5}]),  # which ends first: it has other weights
    ],
)
def test_a_signal_saves_at_the_end_of_the_iteration(
    tmp_path: Path, at: int, number: int, expected: str, hooks: list[Any], whole: Callable[..., Path]
) -> None:
    told = {'type': 'CallHook', 'at': at, 'action': f'os.kill(os.getpid(), {number})'}
    process = toy_run.start(tmp_path / 'told', iterations=9, hooks=[told, *hooks], workers=1 if number == 2 else 0)
    process.join(toy_run.LIMIT)
    output = (tmp_path / 'output.txt').read_text()
    assert process.exitcode == 75, output[-3000:]
    newest = newest_checkpoint(tmp_path / 'told')
    assert (Path(newest.path or '').name, newest.iteration) == (expected, abs(at))
    assert (tmp_path / 'told' / 'last_checkpoint').read_text() == newest.path
    assert f'{signal.Signals(number).name}: saving at the end of this iteration' in output
    assert f'iteration {abs(at)} is saved in {newest.path}' in output
    toy_run.run(tmp_path / 'told', iterations=9, hooks=hooks, resume=True)
    assert_same_run(whole(iterations=9, **({'hooks': hooks} if hooks else {})), tmp_path / 'told', 'iter_9.pth')
    assert not (tmp_path / 'told' / 'preempted.pth').exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    told = {'type': 'CallHook', 'at': 5, 'action': 'os.kill(os.getpid(), 15); os.kill(os.getpid(), 15)'}
    process = toy_run.start(tmp_path / 'told', iterations=9, hooks=[told])
    process.join(toy_run.LIMIT)
    assert process.exitcode == -signal.SIGTERM
    assert newest_checkpoint(tmp_path / 'told').iteration == 4


@pytest.mark.slow
def test_workers_outlive_a_signal_to_the_process_group_and_end_with_the_run(tmp_path: Path) -> None:
    workers = '[str(worker.pid) for worker in __import__("multiprocessing").active_children()]'
    action = (
        f'import subprocess; workers = {workers}; open(runner.work_dir + "/workers", "w").write(" ".join(workers)); '
        'subprocess.run(["kill", "-TERM", *workers]); subprocess.run(["kill", "-INT", *workers])'
    )
    told = {'type': 'CallHook', 'at': 3, 'action': action}
    toy_run.run(tmp_path / 'told', iterations=20, hooks=[told], workers=2)
    assert len(toy_run.record(tmp_path / 'told')) == 20
    for worker in (tmp_path / 'told' / 'workers').read_text().split():
        assert not Path(f'/proc/{worker}').exists()


@pytest.mark.slow
def test_between_accumulated_gradients_nothing_is_saved(tmp_path: Path) -> None:
    told = {'type': 'CallHook', 'at': 4, 'action': 'os.kill(os.getpid(), 15)'}
    process = toy_run.start(tmp_path / 'told', iterations=12, hooks=[told], accumulation=3, interval=12)
    process.join(toy_run.LIMIT)
    assert process.exitcode == 75
    assert newest_checkpoint(tmp_path / 'told').iteration == 6
    toy_run.run(tmp_path / 'told', iterations=12, accumulation=3, interval=12, resume=True)
    toy_run.run(tmp_path / 'whole', iterations=12, accumulation=3, interval=12)
    assert_same_run(tmp_path / 'whole', tmp_path / 'told', 'iter_12.pth')


def test_several_optimizers_accumulate_from_the_iteration_that_is_resumed() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    wrappers = {str(n): OptimWrapper(torch.optim.SGD([weight], lr=0.1), accumulative_counts=n) for n in (2, 3)}
    loop, logger = SimpleNamespace(dataloader=None), SimpleNamespace(warning=lambda text: None)
    runner: Any = SimpleNamespace(
        optim_wrapper=OptimWrapperDict(**wrappers), model=torch.nn.Identity(), iter=6, max_iters=13, world_size=1,
        train_loop=loop, _train_dataloader=None, logger=logger,
    )  # fmt: skip
    assert accumulated_iterations(runner) == 6
    ExactResumeHook().before_train(runner)
    assert [(wrapper._inner_count, wrapper._max_counts) for wrapper in wrappers.values()] == [(6, 13)] * 2


# Parts


def test_hooks_find_the_batch_size_of_the_loader() -> None:
    loader: Any = DataLoader(toy_run.ToyDataset(), batch_size=5)  # type: ignore[arg-type]
    sampler = {'type': 'InfiniteSampler', 'shuffle': True}
    assert seeded_loader(loader, {'sampler': sampler}, 1, 1, True)[0].batch_size == 5


def test_states_survive_a_checkpoint_and_bring_the_same_numbers_back(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), torch.randn(1).item()]  # noqa: NPY002

    draw()  # leaves the second half of a pair of normal numbers in Python's and NumPy's generator
    torch.save(capture_state(), tmp_path / 'state.pth')
    expected = draw()
    draw()
    restore_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_the_gpus_state_comes_back_also_when_it_was_moved_there() -> None:
    state = capture_state()
    expected = torch.rand(3, device='cuda')
    restore_state({**state, 'cuda': state['cuda'].cuda(), 'torch': state['torch'].cuda()})
    assert torch.equal(torch.rand(3, device='cuda'), expected)


def test_loading_a_sample_leaves_the_generators_alone_and_depends_on_the_place_alone() -> None:
    dataset = SeededDataset(toy_run.ToyDataset(), seed=1, rank=0)
    before = capture_state()
    sample = dataset[PlacedIndex(3, (0, 5, 1))]['vector']
    assert_equal(capture_state(), before, 'state')
    random.random()
    assert torch.equal(dataset[PlacedIndex(3, (0, 5, 1))]['vector'], sample)
    assert not torch.equal(dataset[PlacedIndex(3, (0, 5, 2))]['vector'], sample)
    assert not torch.equal(dataset[PlacedIndex(3, (1, 5, 1))]['vector'], sample)
    assert not torch.equal(SeededDataset(dataset.dataset, 1, rank=1)[PlacedIndex(3, (0, 5, 1))]['vector'], sample)
    assert not torch.equal(SeededDataset(dataset.dataset, 2, rank=0)[PlacedIndex(3, (0, 5, 1))]['vector'], sample)


def test_the_seeded_dataset_reads_and_sets_what_the_dataset_has() -> None:
    import pickle

    inner = toy_run.ToyDataset()
    dataset = SeededDataset(inner, seed=1, rank=0)
    dataset.augment = False  # as hooks do that switch a pipeline off
    assert inner.augment is False
    assert len(dataset) == 29
    assert not hasattr(dataset, 'metainfo')
    again = pickle.loads(pickle.dumps(dataset))
    assert again.augment is False
    assert again[2]['index'] == 2


def test_an_index_keeps_its_place_on_the_way_to_a_worker() -> None:
    import pickle

    index = pickle.loads(pickle.dumps(PlacedIndex(3, (0, 5, 1))))
    assert (index, index.place) == (3, (0, 5, 1))
    assert [10, 20, 30, 40][index] == 40


class Sampler(SequentialSampler):
    """Counts the passes."""

    def __init__(self) -> None:
        super().__init__(range(5))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([10 * self.epoch + index for index in range(5)])


def test_batches_begin_where_they_should_over_several_passes() -> None:
    whole = PlacedBatchSampler(BatchSampler(Sampler(), 2, False), endless=True)
    stream = iter(whole)
    batches = [next(stream) for _ in range(8)]
    assert [[int(index) for index in batch] for batch in batches] == [
        [0, 1], [2, 3], [4], [10, 11], [12, 13], [14], [20, 21], [22, 23],
    ]  # fmt: skip
    assert batches[4][1].place == (0, 4, 1)
    for start in range(8):
        again = PlacedBatchSampler(BatchSampler(Sampler(), 2, False), endless=True)
        again.begin(0, start)
        batch = next(iter(again))
        assert [(int(index), index.place) for index in batch] == [(int(i), i.place) for i in batches[start]]


def test_an_epoch_begins_inside_once_and_ends() -> None:
    placed = PlacedBatchSampler(BatchSampler(Sampler(), 2, False), endless=False)
    placed.begin(4, 2)
    assert [[index.place for index in batch] for batch in placed] == [[(4, 2, 0)]]
    assert len(list(placed)) == 3
    placed.begin(4, 3)
    assert list(placed) == []
    assert list(PlacedBatchSampler(BatchSampler([], 2, False), endless=True)) == []
