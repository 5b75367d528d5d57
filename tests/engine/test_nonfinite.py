"""Losses and gradients that are not finite: found, named, and where wanted left out without a trace."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.utils import digit_version
from torch import nn
from torch.utils.data import Dataset

from mmvit_ext.engine.hooks.nonfinite import MAX_OVERFLOWS, NonFiniteError, NonFiniteHook, image_paths
from mmvit_ext.engine.optimizers import CPUAmpOptimWrapper
from mmvit_ext.errors.user_error import UserError
from tests.engine.toy_run import CONTEXT
from tests.processes import free_port

NAN, INF = float('nan'), float('inf')


class Samples(Dataset):
    """Sample i is the number i, from the file i.png; some have another number."""

    def __init__(self, changed: dict[int, float], size: int = 8) -> None:
        self.metainfo: dict[str, Any] = {}
        self.values = {**{index: float(index) for index in range(size)}, **changed}

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = BaseDataElement(metainfo={'img_path': f'{index}.png'})
        return {'inputs': torch.tensor([self.values[index]]), 'data_samples': sample}


class Line(BaseModel):
    """Two parameters, two losses; the second one only where it is asked for."""

    def __init__(self, second: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.second = second
        self.norm = nn.BatchNorm1d(1) if norm else None

    def forward(self, inputs: Sequence[torch.Tensor], data_samples: Any = None, mode: str = 'loss') -> Any:
        x = torch.stack(list(inputs)).to(self.slope.device)
        if self.norm is not None:
            x = self.norm(x)
        losses = {'loss_line': (self.slope * x + self.offset).mean(), 'accuracy': torch.tensor(NAN)}
        return {**losses, 'loss_second': torch.tensor(self.second)}


def build(
    tmp_path: Path,
    changed: dict[int, float] | None = None,
    *,
    model: nn.Module | None = None,
    iters: int = 8,
    batch: int = 1,
    hook: NonFiniteHook | None = None,
    wrapper: Any = None,
    size: int | None = None,
    **options: Any,
) -> Runner:
    for kind in (MessageHub, MMLogger):
        kind._instance_dict.clear()
    model = model or Line()
    if wrapper is None:
        wrapper = {'optimizer': {'type': 'AdamW', 'lr': 0.1, 'weight_decay': 0.1}}
    elif callable(wrapper):
        wrapper = wrapper(model)
    return Runner(
        model,
        work_dir=str(tmp_path),
        train_dataloader={
            'batch_size': batch,
            'num_workers': 0,
            'dataset': Samples(changed or {}, size or iters * batch),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': pseudo_collate,
        },
        train_cfg={'by_epoch': False, 'max_iters': iters},
        optim_wrapper=wrapper,
        custom_hooks=[hook or NonFiniteHook()],
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
        experiment_name=tmp_path.name,
        **options,
    )


def finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_nan_ends_the_run_with_iteration_loss_gradients_and_image(tmp_path: Path) -> None:
    runner = build(tmp_path, {4: NAN})
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert 'iteration 5 has' in message
    assert 'loss = nan, loss_line = nan' in message
    assert 'loss_second' not in message
    assert 'accuracy' not in message  # not made from, only logged
    assert '1 of 2 (slope)' in message  # d(slope * x + offset) / d(offset) is 1
    assert '4.png' in message
    assert '3.png' not in message
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == [f'iter_{i}.pth' for i in (1, 2, 3, 4)]


def test_an_infinite_gradient_of_a_finite_loss_ends_the_run(tmp_path: Path) -> None:
    model = Line()
    model.slope.register_hook(lambda gradient: gradient * INF)
    with pytest.raises(NonFiniteError, match=r'iteration 1 has gradients that are not finite: 1 of 2 \(slope\)'):
        build(tmp_path, {0: 1.0}, model=model).train()


def test_without_the_hook_the_run_goes_to_its_end_with_nothing_left(tmp_path: Path) -> None:
    # What the hook is for; should mmengine learn it by itself one day, the hook can go.
    runner = build(tmp_path, {4: NAN})
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, NonFiniteHook)]
    runner.train()
    assert not finite(runner.model)


def test_a_run_with_a_skipped_update_equals_one_without_the_batch(tmp_path: Path) -> None:
    runner = build(tmp_path / 'a', {4: NAN}, hook=NonFiniteHook(max_skips=1))
    runner.train()
    plain = Line()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.1)
    for value in (0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0):
        optimizer.zero_grad()
        (plain.slope * value + plain.offset).mean().backward()
        optimizer.step()
    assert torch.equal(runner.model.slope, plain.slope)
    assert torch.equal(runner.model.offset, plain.offset)
    log = next((tmp_path / 'a').glob('*/*.log')).read_text()
    assert 'iteration 5 has' in log
    assert 'update left out (1 of at most 1)' in log
    assert '1 updates were left out' in log


def test_more_updates_than_the_limit_end_the_run_with_finite_parameters(tmp_path: Path) -> None:
    runner = build(tmp_path, {1: NAN, 3: INF, 5: NAN}, hook=NonFiniteHook(max_skips=2))
    with pytest.raises(NonFiniteError, match=r'iteration 6 has .*these are 3 such updates where max_skips is 2'):
        runner.train()
    assert finite(runner.model)


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    build(tmp_path, {1: NAN, 3: NAN}, iters=4, hook=NonFiniteHook(max_skips=2)).train()
    runner = build(tmp_path, {5: NAN}, iters=6, hook=NonFiniteHook(max_skips=2), resume=True)
    with pytest.raises(NonFiniteError, match='these are 3 such updates'):
        runner.train()


def test_a_loss_that_is_not_finite_but_has_no_gradient_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r'loss = inf, loss_second = inf, with the images 0\.png'):
        build(tmp_path, model=Line(second=INF)).train()


def test_an_accumulated_update_names_all_its_images_and_counts_once(tmp_path: Path) -> None:
    wrapper = {'accumulative_counts': 3, 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    hook = NonFiniteHook(max_skips=1)
    runner = build(tmp_path / 'skip', {1: NAN, 2: NAN}, iters=9, hook=hook, wrapper=wrapper)
    runner.train()
    assert runner.message_hub.get_info('nonfinite_updates') == 1
    log = next((tmp_path / 'skip').glob('*/*.log')).read_text()
    assert 'iteration 3 has' in log
    assert 'with the images 0.png, 1.png, 2.png:' in log
    # d/d(slope) is the mean of the inputs: only the batches 3 to 5 and 6 to 8 moved it.
    assert runner.model.slope.item() == pytest.approx(1 - 0.1 * (4 + 7))
    with pytest.raises(NonFiniteError, match='iteration 2 has losses'):
        build(tmp_path / 'stop', {1: NAN}, iters=9, wrapper=wrapper).train()


def test_clipping_does_not_hide_an_infinite_gradient(tmp_path: Path) -> None:
    wrapper = {'clip_grad': {'max_norm': 1.0}, 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    with pytest.raises(NonFiniteError, match='iteration 4 has'):
        build(tmp_path / 'a', {3: INF}, wrapper=wrapper).train()
    runner = build(tmp_path / 'b', {3: INF}, wrapper=wrapper, hook=NonFiniteHook(max_skips=1))
    runner.train()
    assert finite(runner.model)


def test_it_works_with_mixed_precision_on_a_cpu(tmp_path: Path) -> None:
    def wrapper(model: nn.Module) -> OptimWrapper:
        return CPUAmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

    with pytest.raises(NonFiniteError, match='iteration 3 has'):
        build(tmp_path, {2: NAN}, wrapper=wrapper).train()


def test_it_works_in_a_compiled_train_step(tmp_path: Path) -> None:
    compiled = {'cfg': {'compile': {'backend': 'eager'}}}
    with pytest.raises(NonFiniteError, match='iteration 3 has ') as caught:
        build(tmp_path / 'a', {2: NAN}, iters=4, **compiled).train()
    runner = build(tmp_path / 'b', {2: NAN}, iters=4, hook=NonFiniteHook(max_skips=1), **compiled)
    if 'gradients that' not in str(caught.value):  # PyTorch 2.1 does not call the hooks of an optimiser it has compiled
        with pytest.raises(NonFiniteError, match='cannot be watched'):
            runner.train()
        return
    runner.train()
    assert finite(runner.model)
    assert runner.message_hub.get_info('nonfinite_updates') == 1


def test_poisoned_running_statistics_end_the_run_although_updates_may_be_skipped(tmp_path: Path) -> None:
    model = Line(norm=True)
    with pytest.raises(NonFiniteError, match=r'iteration 2 has .*no longer finite either \(norm\.running_mean'):
        build(tmp_path, {2: NAN}, model=model, batch=2, iters=4, hook=NonFiniteHook(max_skips=9)).train()


class ScaledWrapper(OptimWrapper):
    """``AmpOptimWrapper`` in short, which refuses to exist without a GPU."""

    def __init__(self, optimizer: torch.optim.Optimizer, scale: float) -> None:
        super().__init__(optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


needs_cpu_scaler = pytest.mark.skipif(
    not hasattr(torch, 'amp') or not hasattr(torch.amp, 'GradScaler'), reason='no gradient scaler for the CPU'
)


@needs_cpu_scaler
def test_an_overflow_of_the_loss_scale_is_not_counted(tmp_path: Path) -> None:
    # 3e38 is the largest float32: a scale of 2^127 overflows with an input of 7 until it has been halved three times.
    runner = build(
        tmp_path,
        dict.fromkeys(range(8), 7.0),
        wrapper=lambda model: ScaledWrapper(torch.optim.SGD(model.parameters(), lr=0.0), 2.0**127),
    )
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    assert runner.message_hub.get_info('nonfinite_updates', 0) == 0


@needs_cpu_scaler
def test_overflows_without_end_are_counted(tmp_path: Path) -> None:
    model = Line()
    model.slope.register_hook(lambda gradient: gradient * NAN)
    wrapper = lambda line: ScaledWrapper(torch.optim.SGD(line.parameters(), lr=0.1), 2.0**16)  # noqa: E731
    with pytest.raises(NonFiniteError, match=f'iteration {MAX_OVERFLOWS} has gradients that overflowed in'):
        build(tmp_path, model=model, iters=MAX_OVERFLOWS + 5, wrapper=wrapper).train()


FUSES = digit_version(torch.__version__) >= digit_version('2.4.0')


@needs_cpu_scaler
@pytest.mark.skipif(not FUSES, reason='this PyTorch fuses on a GPU only')
@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.AdamW])
def test_an_overflow_that_a_fused_optimizer_leaves_out_is_not_counted(kind: Any, tmp_path: Path) -> None:
    """The scaler calls it all the same, with gradients that are infinite."""
    runner = build(
        tmp_path,
        dict.fromkeys(range(8), 7.0),
        wrapper=lambda model: ScaledWrapper(kind(model.parameters(), lr=1e-3, fused=True), 2.0**127),
        hook=NonFiniteHook(max_skips=1),
    )
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    assert runner.message_hub.get_info('nonfinite_updates', 0) == 0
    assert finite(runner.model)
    assert runner.model.slope.item() != 1.0, 'it goes on where the scale is small enough'


@needs_cpu_scaler
@pytest.mark.skipif(not FUSES, reason='this PyTorch fuses on a GPU only')
def test_overflows_of_a_fused_optimizer_without_end_are_counted(tmp_path: Path) -> None:
    model = Line()
    model.slope.register_hook(lambda gradient: gradient * NAN)
    make = lambda line: ScaledWrapper(torch.optim.AdamW(line.parameters(), lr=0.1, fused=True), 2.0**16)  # noqa: E731
    with pytest.raises(NonFiniteError, match=f'iteration {MAX_OVERFLOWS} has gradients that overflowed in'):
        build(tmp_path, model=model, iters=MAX_OVERFLOWS + 5, wrapper=make).train()
    assert finite(model)


@needs_cpu_scaler
@pytest.mark.skipif(not FUSES, reason='this PyTorch fuses on a GPU only')
def test_a_fused_optimizer_without_a_scale_is_watched(tmp_path: Path) -> None:
    def wrapper(model: nn.Module) -> OptimWrapper:
        scaled = ScaledWrapper(torch.optim.AdamW(model.parameters(), lr=0.1, fused=True), 1.0)
        scaled.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)  # as for bfloat16
        return scaled

    with pytest.raises(NonFiniteError, match='iteration 3 has losses that are not finite'):
        build(tmp_path, {2: NAN}, wrapper=wrapper).train()


@pytest.mark.parametrize('max_skips', [-1, 1.5, True, None])
def test_a_limit_that_is_no_count_is_refused(max_skips: Any) -> None:
    with pytest.raises(ValueError, match='max_skips must be an integer'):
        NonFiniteHook(max_skips=max_skips)


def test_image_paths_are_found_in_the_batches_of_all_libraries() -> None:
    sample = BaseDataElement(metainfo={'img_path': 'a.png'})
    assert image_paths({'inputs': [], 'data_samples': [sample, BaseDataElement()]}) == ['a.png']
    assert image_paths([{'data_samples': sample}]) == ['a.png']
    assert image_paths({'inputs': torch.zeros(1)}) == []
    assert image_paths(None) == []


def _rank(rank: int, folder: str, port: int, max_skips: int, results: Any) -> None:
    import os

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    try:
        wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
        runner = build(
            Path(folder),
            {3: NAN},  # of the second process only, in its second iteration
            iters=3,
            size=6,
            hook=NonFiniteHook(max_skips=max_skips),
            cfg={'model_wrapper_cfg': wrapper},
            launcher='pytorch',
        )
        runner.train()
        results.put((rank, 'done', runner.model.module.slope.item()))
    except NonFiniteError as error:
        results.put((rank, str(error), error.same_on_every_process))
    except Exception as error:
        results.put((rank, f'failed: {error!r}', False))
        raise
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('max_skips', [0, 1])
def test_all_processes_decide_alike(max_skips: int, tmp_path: Path) -> None:
    results = CONTEXT.Queue()
    arguments = (str(tmp_path), free_port(), max_skips, results)
    processes = [CONTEXT.Process(target=_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    answers = {rank: answer for rank, *answer in (results.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(30)
    assert answers[0] == answers[1]
    if max_skips:
        assert answers[0][0] == 'done'
    else:
        message, same = answers[0]
        assert same
        assert 'iteration 2 has' in message
        assert '3.png' in message
        assert '2.png' not in message
