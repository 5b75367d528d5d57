"""The networks of :mod:`benchmarks.gpu`: ours, timm's and the plain references, at full and at toy sizes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.plain_atm import plain_loss
from benchmarks.plain_nest import plain_nest
from benchmarks.plain_p2t import plain_p2t
from benchmarks.plain_tnt import plain_tnt
from mmvit_ext.models.backbones import P2T, TNT, NesT, ShrunkViT, SPFormer, ViT
from mmvit_ext.models.flops import count_flops

__all__ = ['Case', 'Runs', 'cases', 'kernel_pairs', 'loader_batches', 'small_networks']

CONFIGS = Path(__file__).parents[1] / 'configs'
CLASSES, PRESENT = 150, 9  # of ADE20K, and in an image of it
WAYS = ('eager', 'blocks')
Build = Callable[[], nn.Module]


@dataclass
class Runs:
    """A network on a device and what can be done with it."""

    model: nn.Module
    loss: Callable[[], Tensor]
    forward: Callable[[], Tensor]
    images: int
    flops: int = 0  # of the forward pass of one image
    loss_of: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Case:
    """A row to be measured; ``build(device, toy)`` makes what it runs."""

    name: str
    side: str
    mode: str
    build: Callable[[torch.device, bool], Runs]
    ways: tuple[str, ...] = ('eager',)


def cases(part: str) -> list[Case]:
    """The cases of a part of the benchmark."""
    return {'segvit': segvit, 'head': head, 'p2t': p2t, 'spformer': spformer, 'tnt': tnt, 'nest': nest}[part]()


def on_device(build: Build, device: torch.device) -> nn.Module:
    """Build a network where its random weights cost nothing."""
    with device:
        return build().to(device)


def flops_of(build: Build, size: int) -> int:
    """Operations of the forward pass of one image."""
    with torch.device('meta'):
        model, img = build().eval(), torch.empty(1, 3, size, size)
    with torch.no_grad():
        return count_flops(lambda: model(img))


# Classifiers


class Classifier(nn.Module):
    """A backbone, the mean of its last map and a linear layer."""

    run: Callable[[nn.Module, Tensor], Any] | None = None  # the backbone, where it does not run itself

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.fc = backbone, nn.Linear(width, 1000)

    def forward(self, img: Tensor) -> Tensor:
        out = self.backbone(img) if self.run is None else self.run(self.backbone, img)
        out = out[-1] if isinstance(out, tuple | list) else out
        return self.fc(out.mean((2, 3)) if out.ndim == 4 else out)


def classifier(
    build: Callable[..., Classifier], device: torch.device, toy: bool, run: Callable[..., Any] | None = None
) -> Runs:
    """A classifier and a batch; ``run`` is a plain reference that computes on its weights."""
    size, batch = (64, 2) if toy else (224, 128)
    model = on_device(partial(build, toy), device)
    model.run = run
    img, label = torch.randn(batch, 3, size, size, device=device), torch.randint(0, 1000, (batch,), device=device)

    def loss_of(img: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(model(img).float(), label, label_smoothing=0.1)

    flops = flops_of(partial(build, toy), size)
    return Runs(model, lambda: loss_of(img, label), lambda: model(img), batch, flops, loss_of)


def classifiers(name: str, ours: Callable[..., Classifier], plain: Any, peer: str | None) -> list[Case]:
    """Ours as it is and compiled, the plain reference on the same weights' shapes, and timm's network."""
    name = f'{name} 224x224'
    build = partial(classifier, ours)
    found = [Case(name, 'ours', mode, build, WAYS) for mode in ('train', 'infer')]
    if plain is not None:
        found.append(Case(name, 'plain', 'train', partial(classifier, ours, run=plain)))
    if peer is not None and find_spec('timm') is not None:
        build = partial(classifier, partial(of_timm, peer))
        found += [Case(name, f'timm {peer}', mode, build) for mode in ('train', 'infer')]
    return found


def of_timm(name: str, toy: bool) -> Classifier:
    import timm

    model = timm.create_model(name, num_classes=0, **({'img_size': 64} if toy and name != 'pvt_v2_b2' else {}))
    return Classifier(model, model.num_features)


def make_tnt(toy: bool) -> Classifier:
    model = TNT('tiny' if toy else 'small', img_size=64 if toy else 224, out_type='featmap')
    return Classifier(model, model.out_channels[-1])


def make_nest(toy: bool) -> Classifier:
    model = NesT('tiny', img_size=64 if toy else 224, out_indices=-1)
    return Classifier(model, model.out_channels[-1])


def make_spformer(toy: bool) -> Classifier:
    model = SPFormer('tiny' if toy else 'small', img_size=64 if toy else 224, out_type='avg_featmap')
    return Classifier(model, model.out_channels[-1])


def make_p2t(toy: bool) -> Classifier:
    model = P2T('tiny' if toy else 'small', out_indices=3)
    return Classifier(model, model.out_channels[-1])


def tnt() -> list[Case]:
    return classifiers('TNT-S', make_tnt, plain_tnt, 'tnt_s_patch16_224')


def nest() -> list[Case]:
    return classifiers('NesT-T', make_nest, plain_nest, 'nest_tiny')


def spformer() -> list[Case]:
    return classifiers('SPFormer-S/16', make_spformer, None, 'vit_small_patch16_224')


# Segmentors


def segmentor(config: str, batch: int, size: int, device: torch.device, toy: bool) -> Runs:
    """A segmentor of a config, with random weights and plain batch norm, and a batch with labels."""
    import mmseg.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    size = 64 if toy else size
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIGS / config).model
    cfg.backbone.init_cfg = None
    for part in (cfg.decode_head, cfg.get('neck') or {}):
        if part.get('norm_cfg'):
            part.norm_cfg = {'type': 'BN', 'requires_grad': True}
    if toy:
        make_small(cfg, size)
    model = on_device(lambda: MODELS.build(cfg), device)
    img = torch.randn(batch, 3, size, size, device=device)
    label = labels(batch, size).to(device)
    meta = {'img_shape': (size, size), 'ori_shape': (size, size), 'pad_shape': (size, size)}
    samples = []
    for image in label:
        sample = SegDataSample(metainfo={**meta, 'classes_present': sorted(set(image.unique().tolist()) - {255})})
        sample.set_data({'gt_sem_seg': _pixels(image[None])})
        samples.append(sample)

    def loss() -> Tensor:
        return sum(value for name, value in model.loss(img, samples).items() if 'loss' in name)

    def body() -> nn.Module:
        built = MODELS.build(cfg)
        built.forward = lambda img: built.encode_decode(img, [meta])
        return built

    return Runs(model, loss, lambda: model.encode_decode(img, [meta] * batch), batch, flops_of(body, size))


def _pixels(label: Tensor) -> Any:
    from mmengine.structures import PixelData

    return PixelData(data=label)


def make_small(cfg: Any, size: int) -> None:
    """Shrink a config to what a CPU does in a second."""
    cfg.backbone.arch = 'tiny'
    if 'ViT' in cfg.backbone.type:
        cfg.backbone.update(arch={'embed_dims': 48, 'num_layers': 3, 'num_heads': 3}, img_size=(size, size))
        cfg.backbone.out_indices = (0, 1, 2)
        cfg.decode_head.update(in_channels=[48] * 3, channels=24, num_heads=2, num_layers=1)
    else:
        cfg.neck.in_channels = list(P2T.ARCHS['tiny']['embed_dims'])
    cfg.test_cfg = {'mode': 'whole'}


def labels(batch: int, size: int) -> Tensor:
    """Label maps with few classes in each image and a strip that is ignored."""
    cells = max(size // 32, 1)
    images = [torch.randperm(CLASSES)[:PRESENT][torch.randint(PRESENT, (cells, cells))] for _ in range(batch)]
    edge = size // cells
    label = torch.stack(images).repeat_interleave(edge, 1).repeat_interleave(edge, 2)
    label[:, :2] = 255
    return label


SEGVIT = 'segvit/segvit_vit-l16_8xb2-160k_ade20k-640x640.py'


def segvit() -> list[Case]:
    found = []
    for batch, ways in ((2, (*WAYS, 'graphs')), (8, WAYS)):
        build = partial(segmentor, SEGVIT, batch, 640)
        found.append(Case(f'SegViT-L 640x640, {batch} images', 'ours', 'train', build, ways))
    for batch, ways in ((1, (*WAYS, 'graphs')), (32, WAYS)):
        name = f'SegViT-L 512x512, {batch} image{"s" if batch > 1 else ""}'
        found.append(Case(name, 'ours', 'infer', partial(segmentor, SEGVIT, batch, 512), ways))
    return found


def p2t() -> list[Case]:
    build = partial(segmentor, 'p2t/sem-fpn_p2t-s_8xb2-80k_ade20k-512x512.py', 16, 512)
    name = 'P2T-S Semantic FPN 512x512'
    found = [Case(name, 'ours', mode, build, WAYS) for mode in ('train', 'infer')]
    return found + classifiers('P2T-S', make_p2t, plain_p2t, 'pvt_v2_b2')


def head() -> list[Case]:
    name = 'ATM head and loss of SegViT-L, 2 images'
    return [
        Case(name, 'ours', 'train', partial(atm_head, False), WAYS),
        Case(name, 'plain', 'train', partial(atm_head, True)),
    ]


def atm_head(plain: bool, device: torch.device, toy: bool) -> Runs:
    """Decoder and loss on maps that are there."""
    from mmvit_ext.models.decode_heads.atm_head import ATMHead

    width, dims, edge = (48, 24, 4) if toy else (1024, 768, 40)
    build = partial(
        ATMHead, [width] * 3, dims, num_classes=CLASSES, in_index=[0, 1, 2], num_heads=2 if toy else 12,
        num_layers=1 if toy else 3,
    )  # fmt: skip
    model = on_device(build, device)
    maps = [torch.randn(2, width, edge, edge, device=device, requires_grad=True) for _ in range(3)]
    label = labels(2, 16 * edge)
    classes = [sorted(set(image.unique().tolist()) - {255}) for image in label]
    label = label.to(device)

    def loss() -> Tensor:
        losses = plain_loss(model, maps, label) if plain else model.loss_decode(model.decode(maps), label, 255, classes)
        return sum(value for name, value in losses.items() if 'loss' in name)

    return Runs(model, loss, lambda: model(maps), 2)


# Equality, kernels and files


def small_networks() -> dict[str, Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]]:
    """Small networks that take every route, and a tensor that each gives on the device of its weights."""

    def backbone(build: Build, *size: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        img = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))

        def run(model: nn.Module) -> Tensor:
            return torch.cat([out.flatten() for out in model(img.to(next(model.parameters()).device))])

        return build(), run

    small = {'embed_dims': 48, 'num_layers': 3, 'num_heads': 3}
    vit = {'arch': small, 'img_size': 48, 'out_indices': (0, 2)}
    networks: dict[str, tuple[Build, tuple[int, int]]] = {
        'ViT': (partial(ViT, **vit), (48, 64)),
        'ViT without a class token': (partial(ViT, **vit, with_cls_token=False), (40, 56)),
        'ShrunkViT': (partial(ShrunkViT, small, img_size=48, shrink_index=1, out_indices=(0, 2)), (48, 48)),
        'P2T': (partial(P2T, 'tiny'), (58, 70)),
        'P2T, largest values': (partial(P2T, 'tiny', pool_type='max', ffn_type='mlp'), (64, 64)),
        'SPFormer': (partial(SPFormer, 'tiny', img_size=48, depths=(1, 1)), (48, 40)),
        'SPFormer, own projections': (
            partial(SPFormer, 'tiny', img_size=48, depths=(1, 1), pixel_qkv='separate', bridge_from='updated'),
            (48, 48),
        ),
        'TNT': (partial(TNT, 'tiny', img_size=48), (48, 40)),
        'TNT without word positions': (partial(TNT, 'tiny', img_size=48, with_word_pos=False), (48, 48)),
        'NesT': (partial(NesT, 'tiny', img_size=56), (60, 44)),
    }
    found: dict[str, Any] = {name: partial(backbone, build, *size) for name, (build, size) in networks.items()}
    if find_spec('mmseg') is not None:
        found['ATM head and loss'] = small_head
    return found


def small_head() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    from mmvit_ext.models.decode_heads.atm_head import ATMHead

    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 20, 5, 7, generator=generator) for _ in range(2)]
    label = torch.randint(0, 5, (2, 41, 67), generator=generator)

    def run(model: nn.Module) -> Tensor:
        device = next(model.parameters()).device
        losses = model.loss_decode(model.decode([x.to(device) for x in maps]), label.to(device))
        return torch.stack([value for name, value in losses.items() if 'loss' in name])

    return ATMHead([20, 20], 12, num_classes=6, in_index=[0, 1], num_heads=3, dropout_ratio=0.0), run


def kernel_pairs(device: torch.device, toy: bool) -> dict[str, tuple[Any, Any, list[Tensor]]]:
    """Fused form, plain form and inputs of every kernel, at the sizes of SegViT-L, TNT-S and SPFormer-S."""
    from mmvit_ext.models.kernels.cells import fused_cells, plain_cells
    from mmvit_ext.models.kernels.mask_losses import fused_mask_losses
    from mmvit_ext.models.kernels.words import fused_layer, plain_layer
    from mmvit_ext.models.layers.masks import mask_losses

    random = partial(torch.randn, device=device)
    label = labels(2, 64 if toy else 640).to(device)
    index = torch.arange(2 * PRESENT, device=device) // PRESENT
    classes = torch.cat([image.unique()[:PRESENT] for image in label.cpu()]).to(device)
    patches, c, r = (64 if toy else 128 * 196), 24, 96
    shapes = [(c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (c,), (c,), (r, c), (r,), (c, r), (c,)]
    cell, batch = (4, 4), 2 if toy else 32

    def masks(function: Any) -> Any:
        return lambda x: torch.stack(function(x, label, index[: len(classes)], classes)).sum()

    def words(function: Any) -> Any:
        return lambda x, *parameters: function(x, 4, (1e-6, 1e-6), *parameters).square().mean()

    def cells(function: Any) -> Any:
        return lambda k, q: function(k, k, q, cell)[1].square().mean()

    edge = 4 if toy else 40
    return {
        'mask losses': (masks(fused_mask_losses), masks(mask_losses), [random(3, len(classes), edge, edge)]),
        'words': (words(fused_layer), words(plain_layer), [random(patches, 16, c), *(random(s) for s in shapes)]),
        'cells': (
            cells(fused_cells), cells(plain_cells), [random(batch, 14, 14, 2, 16, 192), random(batch, 2, 192, 14, 14)],
        ),
    }  # fmt: skip


class Photographs(Dataset):
    """JPEG files in memory that are decoded, cut and flipped as for ImageNet."""

    def __init__(self, size: int) -> None:
        self.size, self.files = size, []
        generator = np.random.default_rng(0)
        for _ in range(16):
            coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, 'JPEG')
            self.files.append(buffer.getvalue())

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = np.random.default_rng(index)
        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert('RGB')
        edge = int(generator.integers(200, 375))
        left, top = (int(generator.integers(0, side - edge + 1)) for side in image.size)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, (left, top, left + edge, top + edge))
        pixels = np.asarray(image)[:, :: 1 if generator.random() < 0.5 else -1]
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), index % 1000


@contextmanager
def loader_batches(device: torch.device, toy: bool) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Batches of normalised images on the device, read by workers into pinned memory."""
    size, batch, workers = (64, 2, 0) if toy else (224, 128, min(16, os.cpu_count() or 1))
    pinned = device.type == 'cuda'
    loader = DataLoader(
        Photographs(size), batch, shuffle=False, num_workers=workers, pin_memory=pinned, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    iterator = iter(loader)
    yield (
        (img.to(device, non_blocking=True).float().sub_(116).div_(58), label.to(device, non_blocking=True))
        for img, label in iterator
    )
    del iterator
