"""Estimate what training a row takes on this machine, from a few iterations at its true sizes on random data."""

import copy
import gc
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData

from mmvit_ext.checks.layouts import LAYOUTS
from mmvit_ext.config.adjust import set_optimizer, set_precision
from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.machine import memory_limit, peak_bytes

from .ledger import Ledger, Row
from .training import TrainingPlan, plan_training, process_count

__all__ = ['Estimate', 'estimate_row', 'image_size', 'random_batch']

ITERATIONS = 3  # timed, after one that is not
CLASSES_PER_IMAGE = 10  # of a random label map, about ADE20K's average
OBJECTS_PER_IMAGE = 7  # of a random detection image, about COCO's average
RESERVE = 0.95  # share of the free memory that a step on the CPU may use
_OUT_OF_MEMORY = ("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc')


@dataclass(frozen=True)
class Estimate:
    """What a row's training takes; without a time and a peak where it does not fit."""

    row: str
    device: str
    plan: TrainingPlan
    size: tuple[int, int]  # height and width of the images in pixels
    images: int  # that the model sees in the whole schedule
    seconds: float | None  # of an iteration
    needed: int | None  # bytes at the peak, weights and optimiser included
    limit: int  # bytes of memory that the device has
    fits: bool
    single: int | None = None  # bytes at the peak with one image per GPU, where only that fits

    @property
    def iterations(self) -> int:
        """Iterations of the whole schedule on this machine."""
        return -(-self.images // self.plan.total)

    def hours(self, machines: int = 1) -> float | None:
        """Hours of the whole schedule on a number of such machines, communication between them not included."""
        return None if self.seconds is None else self.iterations * self.seconds / 3600 / machines

    def lines(self, machines: Sequence[int] = (8,)) -> Iterator[str]:
        """The estimate as text, also for the given numbers of machines like this one."""
        plan, (height, width) = self.plan, self.size
        yield f'{self.row}: {plan.per_process} images of {height}x{width} pixels per process on {self.device}'
        if not self.fits:
            yield f'DOES NOT FIT: an iteration needs more memory than is free here; the device has {_gib(self.limit)}'
            fitting = f'one image per GPU needs {_gib(self.single or 0)}: pass --images-per-gpu 1, or one in between'
            yield fitting if self.single else 'Not even one image per GPU fits: use a larger device'
            return
        yield f'{self.seconds:.3f} s per iteration, peak memory {_gib(self.needed or 0)} of {_gib(self.limit)}'
        yield f'the schedule has {self.images:,} images: {self.iterations:,} iterations of {plan.total} ({plan.where})'
        for count in (1, *machines):
            hours = self.hours(count) or 0
            where = 'this machine' if count == 1 else f'{count} of them'
            text = f'{hours:.1f} hours' if 1 <= hours < 48 else f'{hours / 24:.1f} days'
            yield f'on {where}: {text if hours >= 1 else f"{hours * 60:.1f} minutes"}'
        yield 'reading images, evaluation and communication between GPUs are not included'


def _gib(size: float) -> str:
    return f'{size / 2**30:.1f} GiB'


def estimate_row(
    ledger: Ledger,
    row: Row,
    *,
    gpus: int | None = None,
    images_per_gpu: int | None = None,
    iterations: int = ITERATIONS,
    amp: bool | None = None,
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> Estimate:
    """Run a few iterations of a row's training on random data, on one of ``gpus`` devices."""
    if iterations < 1:
        raise UserError(f'--iterations {iterations}: expected 1 or more')
    where = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    cfg = load_config(ledger.root / str(row.config), cfg_options or {})
    prepare_scope(cfg)
    plan = plan_training(cfg, process_count(gpus), images_per_gpu)
    if 'max_iters' in cfg.train_cfg:
        images = int(cfg.train_cfg.max_iters) * plan.base
    elif row.dataset in LAYOUTS:
        images = int(cfg.train_cfg.max_epochs) * LAYOUTS[row.dataset].train
    else:
        raise UserError(f'the number of images of {row.dataset} is not known: expected one of {list(LAYOUTS)}')
    name = torch.cuda.get_device_name(where) if where.type == 'cuda' else 'the CPU'
    size, limit = image_size(cfg), memory_limit(where)
    found, single = _measure(cfg, plan.per_process, where, iterations, amp), None
    if found is None and plan.per_process > 1:
        print('it does not fit; trying a single image')
        single = _measure(cfg, 1, where, 1, amp)
    seconds, needed = found or (None, None)
    fits, least = found is not None, single[1] if single else None
    return Estimate(row.name, name, plan, size, images, seconds, needed, limit, fits, least)


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of a recipe's images: the crop, or for detectors the largest size of an image."""
    size = cfg.get('crop_size') or (cfg.default_scope == 'mmdet' and cfg.get('img_scale')) or cfg.get('img_size')
    if not size:
        raise UserError(f'{cfg.filename} states no image size: expected crop_size, img_scale or img_size')
    height, width = (size, size) if isinstance(size, int) else map(int, size)
    return (height, width) if 'crop_size' in cfg else (min(height, width), max(height, width))


def _measure(
    cfg: Config, images: int, device: torch.device, iterations: int, amp: bool | None
) -> tuple[float, int] | None:
    """Median seconds of an iteration and bytes at its peak; ``None`` where it needs more memory than there is."""
    # This also imports what the model needs: an import that runs out of memory names other reasons.
    count = sum(parameter.numel() for parameter in build_model(cfg, device='meta').parameters())
    batch = random_batch(cfg, images)
    print(f'{count / 1e6:.1f} M parameters, {images} images, {iterations} iterations after a first one')
    try:
        with _limited(device):
            return _run_iterations(cfg, batch, device, iterations, amp)
    except MemoryError:
        pass
    except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
    # Only outside the block above are the frames of the failed step gone.
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    return None


@contextmanager
def _limited(device: torch.device) -> Iterator[None]:
    """On the CPU under Linux, let an allocation beyond the free memory fail, before the system ends some process."""
    if device.type == 'cuda':
        yield
        return
    try:
        import resource

        text = ''.join(Path(f'/proc/{name}').read_text() for name in ('self/status', 'meminfo'))
        kilobytes = dict(re.findall(r'^(\w+):\s+([0-9]+) kB$', text, re.M))
        used, free = (int(kilobytes[name]) * 1024 for name in ('VmData', 'MemAvailable'))
    except (ImportError, OSError, KeyError):  # not Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + int(min(free, memory_limit(device)) * RESERVE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _run_iterations(
    cfg: Config, batch: dict, device: torch.device, iterations: int, amp: bool | None
) -> tuple[float, int]:
    model: Any = build_model(cfg, training=True).to(device).train()
    set_optimizer(cfg)
    set_precision(cfg, amp)
    wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))

    def step() -> float:
        start = time.perf_counter()
        # A step changes its samples: detectors move and pad what they are given.
        model.train_step(copy.deepcopy(batch), wrapper)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    step()
    moments = [value for state in wrapper.optimizer.state.values() for value in state.values()]
    kept = [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, moments)]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in kept) + peak_bytes(step, device)
    return statistics.median(step() for _ in range(iterations)), needed


def random_batch(cfg: Config, images: int) -> dict[str, list[Any]]:
    """A batch of a recipe as a data loader would return it, with random content: images as bytes, and annotations."""
    shape = (3, *image_size(cfg))
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        masks = bool((cfg.model.get('roi_head') or {}).get('mask_head'))
        objects = [OBJECTS_PER_IMAGE] * images
        return demo_mm_inputs(images, [shape] * images, objects, num_classes=cfg.num_classes, with_mask=masks)
    if cfg.default_scope not in ('mmseg', 'mmpretrain'):
        raise UserError(f'{cfg.filename} has the scope {cfg.default_scope}: expected mmdet, mmpretrain or mmseg')
    make = _segmentation_sample if cfg.default_scope == 'mmseg' else _classification_sample
    inputs = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': [make(cfg, *shape[1:]) for _ in range(images)]}


def _segmentation_sample(cfg: Config, height: int, width: int) -> Any:
    from mmseg.structures import SegDataSample

    classes = torch.randperm(cfg.model.decode_head.num_classes)[:CLASSES_PER_IMAGE]
    stripes = torch.arange(width) * len(classes) // width
    labels = PixelData(data=classes[stripes].expand(1, height, width).contiguous())
    return SegDataSample(gt_sem_seg=labels, metainfo={'img_shape': (height, width), 'ori_shape': (height, width)})


def _classification_sample(cfg: Config, height: int, width: int) -> Any:
    from mmpretrain.structures import DataSample

    count = cfg.model.head.num_classes
    return DataSample(metainfo={'num_classes': count}).set_gt_label(int(torch.randint(0, count, (1,))))
