"""What training a row would take on this machine, from a few iterations at its true sizes on random data.

No dataset is needed. Reading images, evaluation on the way and the exchange between GPUs are not in the figures.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmvit_ext.checks.layouts import LAYOUTS
from mmvit_ext.config.building import discard_pretrained
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.machine import memory_limit, peak_bytes

from .ledger import Ledger, Row
from .rescore import process_count
from .training import TrainingPlan, plan_training

__all__ = ['Estimate', 'estimate_row', 'random_batch']

ITERATIONS = 3
"""Timed iterations, after one that is not timed."""
CLASSES_PER_IMAGE = 10
"""Classes of a random label map; on ADE20K it is about as many on average."""
OBJECTS_PER_IMAGE = 7
"""Objects of a random detection image, about COCO's average."""
RESERVE = 0.95
"""Share of the free memory that a step on the CPU may use."""


class _DoesNotFitError(Exception):
    """A step needs more memory than there is."""


@dataclass(frozen=True)
class Estimate:
    """What a row's training takes.

    Args:
        row: The row.
        device: Where it was measured.
        plan: Batch and learning rate on this machine.
        size: Height and width of the images in pixels.
        images: Images that the whole schedule sees.
        seconds: Of an iteration; ``None`` where the row does not fit.
        needed: Bytes at the peak, weights and optimiser included; ``None`` where not even one image fits.
        limit: Bytes that the device has.
        fits: Whether the row's iteration went through.
        single: Bytes at the peak with one image per GPU, where the row does not fit but that does.
    """

    row: str
    device: str
    plan: TrainingPlan
    size: tuple[int, int]
    images: int
    seconds: float | None
    needed: int | None
    limit: int
    fits: bool
    single: int | None = None

    @property
    def iterations(self) -> int:
        """Of the whole schedule on this machine."""
        return -(-self.images // self.plan.total)

    def hours(self, machines: int = 1) -> float | None:
        """Of the whole schedule, without any loss between machines.

        Args:
            machines: How many like this one.
        """
        return None if self.seconds is None else self.iterations * self.seconds / 3600 / machines

    def lines(self, machines: Sequence[int] = (8,)) -> Iterator[str]:
        """The estimate as text.

        Args:
            machines: Numbers of machines like this one to tell the time for.
        """
        plan, (height, width) = self.plan, self.size
        yield f'{self.row}: {plan.per_process} images of {height}x{width} pixels per process on {self.device}'
        if not self.fits:
            yield f'DOES NOT FIT: an iteration needs more memory than is free here; the device has {_gib(self.limit)}'
            if self.single is None:
                yield 'Not even one image per GPU fits: take a larger device'
            else:
                yield f'one image per GPU needs {_gib(self.single)}: pass --images-per-gpu 1, or a number in between'
            return
        assert self.seconds is not None
        yield f'{self.seconds:.3f} s per iteration, peak memory {_gib(self.needed or 0)} of {_gib(self.limit)}'
        yield (
            f'the schedule sees {self.images:,} images: {self.iterations:,} iterations of {plan.total} ({plan.where})'
        )
        for count in (1, *machines):
            where = 'this machine' if count == 1 else f'{count} of them'
            yield f'on {where}: {_duration(self.hours(count) or 0)}'
        yield 'without reading images, evaluation and the exchange between GPUs, which come on top'


def _gib(size: float) -> str:
    return f'{size / 2**30:.1f} GiB'


def _duration(hours: float) -> str:
    if hours < 1:
        return f'{hours * 60:.1f} minutes'
    return f'{hours:.1f} hours' if hours < 48 else f'{hours / 24:.1f} days'


def estimate_row(
    ledger: Ledger,
    row: Row,
    *,
    gpus: int | None = None,
    images_per_gpu: int | None = None,
    iterations: int = ITERATIONS,
    amp: bool = False,
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    show: Callable[[str], object] = print,
) -> Estimate:
    """Run a few iterations of a row's training on random data.

    Args:
        ledger: The ledger.
        row: The row.
        gpus: GPUs that the schedule would run on; one of them is measured. By default all of this machine.
        images_per_gpu: Images per GPU and iteration, by default the recipe's.
        iterations: How many are timed.
        amp: Mixed precision.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        cfg_options: Overrides of the config.
        show: Called with what is being done.

    Returns:
        The estimate.

    Raises:
        UserError: The config is none that can be measured so.
    """
    if iterations < 1:
        raise UserError(f'--iterations {iterations}: expected 1 or more')
    where = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    cfg = load_config(ledger.root / str(row.config), cfg_options or {})
    init_default_scope(prepare_scope(cfg))
    plan = plan_training(cfg, process_count(gpus), images_per_gpu)
    known: dict[str, Any] = dict(
        row=row.name,
        device=torch.cuda.get_device_name(where) if where.type == 'cuda' else 'the CPU',
        plan=plan,
        size=image_size(cfg),
        images=_images_of_schedule(cfg, row, plan),
        limit=memory_limit(where),
    )
    try:
        seconds, needed = _measure(cfg, plan.per_process, where, iterations, amp, show)
    except _DoesNotFitError:
        single = None
        if plan.per_process > 1:
            show('it does not fit; trying a single image')
            with suppress(_DoesNotFitError):
                single = _measure(cfg, 1, where, 1, amp, show)[1]
        return Estimate(**known, seconds=None, needed=None, fits=False, single=single)
    return Estimate(**known, seconds=seconds, needed=needed, fits=True)


def _images_of_schedule(cfg: Config, row: Row, plan: TrainingPlan) -> int:
    loop = cfg.train_cfg
    if 'max_iters' in loop:
        return int(loop.max_iters) * plan.base
    layout = LAYOUTS.get(row.dataset)
    if layout is None:
        raise UserError(f'how many images {row.dataset} has is not known: expected one of {list(LAYOUTS)}')
    return int(loop.max_epochs) * layout.train


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of what a recipe trains on.

    Args:
        cfg: The recipe.

    Returns:
        The crop; for detectors the largest size that an image is brought to.

    Raises:
        UserError: The config does not say it under one of the names that ours use.
    """
    if 'crop_size' in cfg:
        height, width = cfg.crop_size
    elif 'img_scale' in cfg and cfg.default_scope == 'mmdet':
        long, short = max(cfg.img_scale), min(cfg.img_scale)
        height, width = short, long
    elif 'img_size' in cfg:
        height = width = cfg.img_size
    else:
        raise UserError(
            f'{cfg.filename} has neither crop_size nor img_scale nor img_size: what it trains on is not told'
        )
    return int(height), int(width)


def _measure(
    cfg: Config, images: int, device: torch.device, iterations: int, amp: bool, show: Callable[[str], object]
) -> tuple[float, int]:
    """Median seconds of an iteration, and bytes at its peak."""
    try:
        with _limited(device):
            return _run_iterations(cfg, images, device, iterations, amp, show)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    # Outside of the block above nothing holds on to the frames of the failed step.
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    raise _DoesNotFitError


def _run_iterations(
    cfg: Config, images: int, device: torch.device, iterations: int, amp: bool, show: Callable[[str], object]
) -> tuple[float, int]:
    model, wrapper = _build(cfg, device, amp)
    batch = random_batch(cfg, images)
    count = sum(parameter.numel() for parameter in model.parameters())
    show(f'{count / 1e6:.1f} M parameters, {images} images, {iterations} iterations after a first one')

    def step() -> None:
        # Samples are changed on the way: detectors move and pad what they are given.
        model.train_step(copy.deepcopy(batch), wrapper)  # type: ignore[operator]

    step()
    kept = _bytes_of([*model.parameters(), *model.buffers(), *_states(wrapper)])
    needed = kept + peak_bytes(step, device)
    times = []
    for _ in range(iterations):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times), needed


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or "can't allocate memory" in text
        or 'not enough memory' in text
        or 'out of memory' in text
        or 'bad_alloc' in text
    )


@contextmanager
def _limited(device: torch.device) -> Iterator[None]:
    """On a CPU: more than the free memory is refused by the system instead of ending some process."""
    if device.type == 'cuda':
        yield
        return
    try:
        import resource

        status, info = (
            dict(line.split(':', 1) for line in Path(path).read_text().splitlines() if ':' in line)
            for path in ('/proc/self/status', '/proc/meminfo')
        )
        used, free = (int(text.split()[0]) * 1024 for text in (status['VmData'], info['MemAvailable']))
    except (ImportError, OSError, KeyError):  # no Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + int(min(free, memory_limit(device)) * RESERVE)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _build(cfg: Config, device: torch.device, amp: bool) -> tuple[nn.Module, Any]:
    config = copy.deepcopy(cfg.model)
    discard_pretrained(config)
    if 'data_preprocessor' not in config and cfg.get('data_preprocessor'):
        config.data_preprocessor = copy.deepcopy(cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(config)).to(device).train()
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    kind = wrapper.get('type', 'OptimWrapper')
    if amp and kind == 'OptimWrapper':
        kind = 'AmpOptimWrapper'
    if kind == 'AmpOptimWrapper' and device.type == 'cpu':
        kind = 'mmvit_ext.CPUAmpOptimWrapper'
        for name in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(name, None)
    wrapper.type = kind
    return model, build_optim_wrapper(model, wrapper)


def _states(wrapper: Any) -> Iterator[Tensor]:
    for state in wrapper.optimizer.state.values():
        yield from (value for value in state.values() if torch.is_tensor(value))


def _bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def random_batch(cfg: Config, images: int) -> dict[str, list[Any]]:
    """What a data loader would give, of random content.

    Args:
        cfg: The recipe.
        images: How many.

    Returns:
        Images as bytes, 3 x height x width, and their annotations.

    Raises:
        UserError: The config is of another library.
    """
    height, width = image_size(cfg)
    inputs = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(images)]
    make = {'mmseg': _segmentation_sample, 'mmdet': _detection_sample, 'mmpretrain': _classification_sample}
    if cfg.default_scope not in make:
        raise UserError(f'{cfg.filename} is of the scope {cfg.default_scope}: expected one of {sorted(make)}')
    samples = [make[cfg.default_scope](cfg, height, width) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def _segmentation_sample(cfg: Config, height: int, width: int) -> Any:
    from mmseg.structures import SegDataSample

    classes = torch.randperm(cfg.model.decode_head.num_classes)[:CLASSES_PER_IMAGE]
    stripes = torch.arange(width) * len(classes) // width
    labels = classes[stripes].expand(1, height, width).contiguous()
    shape = (height, width)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': shape, 'ori_shape': shape})


def _detection_sample(cfg: Config, height: int, width: int) -> Any:
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    corners = torch.rand(OBJECTS_PER_IMAGE, 2) * 0.6
    sides = 0.05 + torch.rand(OBJECTS_PER_IMAGE, 2) * 0.35
    scale = torch.tensor([width, height, width, height])
    boxes = torch.cat([corners, corners + sides], dim=1) * scale
    instances = InstanceData(bboxes=boxes, labels=torch.randint(0, cfg.num_classes, (OBJECTS_PER_IMAGE,)))
    if (cfg.model.get('roi_head') or {}).get('mask_head'):
        masks = np.zeros((OBJECTS_PER_IMAGE, height, width), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        instances.masks = BitmapMasks(masks, height, width)
    shape = (height, width)
    meta = {'img_shape': shape, 'ori_shape': shape, 'pad_shape': shape, 'scale_factor': (1.0, 1.0), 'img_id': 0}
    return DetDataSample(gt_instances=instances, metainfo=meta)


def _classification_sample(cfg: Config, height: int, width: int) -> Any:
    from mmpretrain.structures import DataSample

    count = cfg.model.head.num_classes
    return DataSample(metainfo={'num_classes': count}).set_gt_label(int(torch.randint(0, count, (1,))))
