"""Two processes with half of a batch each have the gradients of one process with all of it, and leave none out.

Everything is float64: the two ways add up in another order, and in float32 that alone changes a gradient of TNT by
1.2e-6, where 1e-6 is asked for. Batch normalisation uses its running statistics, since on a CPU no synchronised kind of
it exists: with statistics of its own half each process would be right to have another gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmseg')

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.nn.parallel import DistributedDataParallel

from mmvit_ext.models.backbones import ShrunkViT, ViT
from mmvit_ext.models.decode_heads.atm_head import ATMHead
from mmvit_ext.models.decode_heads.shrunk_atm_head import ShrunkATMHead
from tests.zoo import BACKBONES, PRIME_SIZE

PROCESSES, BATCH = 2, 4
TIME_LIMIT = timedelta(minutes=10)
HEAD = {'channels': 12, 'num_classes': 5, 'num_heads': 3, 'num_layers': 2, 'dropout_ratio': 0.0}


class Maps(nn.Module):
    """A backbone with a loss in which every entry of every map counts, and no two alike."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs = self.backbone(images)
        return sum((out**2 + out).mean() for out in outputs)


class Segmentor(nn.Module):
    """A backbone and an ATM decoder with its loss."""

    def __init__(self, backbone: nn.Module, head: ATMHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
        losses = self.head.loss(self.backbone(images), samples, None)
        return sum(value for name, value in losses.items() if 'loss' in name)


def backbone_of(name: str) -> Callable[[], nn.Module]:
    return lambda: Maps(BACKBONES[name].make())


def segmentor_of(cls: type, replaced: dict, head: Callable[..., ATMHead], **arguments: object) -> Callable:
    row = BACKBONES[cls.__name__]
    return lambda: Segmentor(row.make(**replaced), head(**{**HEAD, **arguments}))


CASES: dict[str, Callable[[], nn.Module]] = {
    **{name: backbone_of(name) for name, row in BACKBONES.items() if not row.needs_timm or find_spec('timm')},
    'ATM, supervised by stages': segmentor_of(ViT, {}, ATMHead, in_channels=[24, 24], in_index=[0, 1]),
    'ATM, fused maps': segmentor_of(ViT, {}, ATMHead, in_channels=[24, 24], in_index=[0, 1], fuse_inputs=True),
    'ATM, supervised by layers': segmentor_of(
        ViT, {'out_indices': (2,)}, ATMHead, in_channels=24, deep_supervision='layer'
    ),
    'ATM, ignored pixels left out': segmentor_of(
        ViT,
        {'out_indices': (2,)},
        ATMHead,
        in_channels=24,
        loss_decode={'type': 'mmvit_ext.ATMLoss', 'ignore_as_negative': False},
    ),
    'ATM on the Shrunk structure': segmentor_of(
        ShrunkViT, {}, ShrunkATMHead, in_channels=[24, 24], in_index=[0, 1], img_size=(48, 64), query_stride=8
    ),
}
ATM = [name for name in CASES if name.startswith('ATM')]


def make(name: str) -> nn.Module:
    """The case's model, the same in every process."""
    torch.manual_seed(0)
    model = CASES[name]().double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Four images and labels; the first two images have 8 masks, the last two 1, of which one image has none."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, *PRIME_SIZE, generator=generator, dtype=torch.float64)
    labels = torch.full((BATCH, *PRIME_SIZE), 255)
    labels[:2] = torch.randint(0, 4, (2, *PRIME_SIZE), generator=generator)
    labels[2, :20, :30] = 4
    return images, labels


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradients of a second step: what got none in a first one makes a distributed model fail there."""
    for _ in range(2):
        model.zero_grad()
        model(images, labels).backward()
    named = model.module.named_parameters() if isinstance(model, DistributedDataParallel) else model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.requires_grad}


def work(rank: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=PROCESSES, timeout=TIME_LIMIT
    )
    share = slice(rank * BATCH // PROCESSES, (rank + 1) * BATCH // PROCESSES)
    images, labels = (tensor[share] for tensor in batch())
    for name in CASES:
        model = DistributedDataParallel(make(name), find_unused_parameters=False)
        found = gradients(model, images, labels)
        if rank == 0:
            torch.save(found, Path(folder) / f'{name}.pth')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the gradients that two processes have; one start serves all cases."""
    folder = tmp_path_factory.mktemp('gradients')
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=PROCESSES, start_method='forkserver')
    return folder


@pytest.mark.parametrize('name', CASES)
def test_two_processes_have_the_gradients_of_one(name: str, of_two_processes: Path) -> None:
    together = torch.load(of_two_processes / f'{name}.pth', weights_only=True)
    alone = gradients(make(name), *batch())
    assert together.keys() == alone.keys()
    assert all(gradient is not None for gradient in alone.values())
    largest = max(gradient.abs().max() for gradient in alone.values())
    for parameter, gradient in alone.items():
        assert torch.norm(together[parameter] - gradient) <= 1e-6 * torch.norm(gradient) + 1e-12 * largest, parameter


@pytest.mark.parametrize('name', ATM)
def test_these_batches_tell_a_count_of_masks_over_all_processes_from_one_of_each(name: str) -> None:
    images, labels = batch()
    whole = gradients(make(name), images, labels)
    halves = [gradients(make(name), images[part], labels[part]) for part in (slice(0, 2), slice(2, 4))]
    assert any(
        torch.norm((halves[0][parameter] + halves[1][parameter]) / 2 - gradient) > 1e-3 * torch.norm(gradient)
        for parameter, gradient in whole.items()
    )
