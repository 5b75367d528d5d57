"""Checkpoints as authors release them, made of recorded networks, and what these networks reach on the mini data.

The figures are worked out without the libraries' datasets, transforms, models and metrics: images are read with PIL and
prepared in numpy or torch, networks run in plain operations (but TNT's, whose class token the plain form does not
return: it is the package's), and accuracy and mIoU are counted here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.plain_nest import plain_nest
from benchmarks.plain_p2t import plain_p2t
from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.models import P2T, TNT, NesT

DATA = Path(__file__).parents[1] / 'data'
CLASSES = 1000
IMAGENET = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])
HALF = np.array([[127.5] * 3] * 2)
"""Mean and standard deviation of the colours."""


@dataclass(frozen=True)
class Release:
    """A checkpoint, the config of its row, and what an evaluation has to find.

    Args:
        row: Name of the row.
        method: Its converter and the folder of its config.
        collection: The method as the ledger names it.
        task: Of the row.
        dataset: Of the row.
        metric: Of the row.
        bytes: The file.
        config: Text of the config.
        value: The metric, per cent.
        slack: How far a right measurement may be off, per cent.
    """

    row: str
    method: str
    collection: str
    task: str
    dataset: str
    metric: str
    bytes: bytes
    config: str
    value: float
    slack: float = 1e-6

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes).hexdigest()


def saved(state: Mapping[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


RECIPE = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
auto_scale_lr = dict(base_batch_size=1024)
"""

# Classification

CLASSIFIER = """
_base_ = [
    '../_base_/models/classifier_{method}.py',
    '../_base_/datasets/{dataset}.py',
    '../_base_/classification_runtime.py',
]
data_root = {root!r} + '/imagenet'
model = dict(backbone=dict(_delete_=True, {backbone}), head=dict(in_channels={width}))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale={shorter})
test_pipeline[2].update(crop_size={size})
test_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
val_dataloader = test_dataloader
"""


@dataclass(frozen=True)
class Classifier:
    """How a recorded classifier is built and run.

    Args:
        collection: The method as the ledger names it.
        build: Class of the backbone.
        arguments: Of the backbone, from the recorded settings.
        feature: What the classifier sees, ``(1, C)``, of backbone and image.
        file: The record.
        dataset: Config of the dataset.
        size: Edge of the network's images.
        shorter: Shorter side that images are resized to before.
        colours: Mean and standard deviation.
    """

    collection: str
    build: Callable[..., torch.nn.Module]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    feature: Callable[[Any, torch.Tensor], torch.Tensor]
    file: str
    dataset: str
    size: int
    shorter: int
    colours: np.ndarray


def _chosen(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: tuple(config[name]) if isinstance(config[name], list) else config[name] for name in names}


CLASSIFIERS = {
    'p2t': Classifier(
        'P2T',
        P2T,
        lambda config: {
            'arch': _chosen(config, ('embed_dims', 'num_heads', 'depths', 'mlp_ratios')),
            'out_indices': (3,),
        },
        lambda backbone, img: plain_p2t(backbone, img)[-1].mean(dim=(2, 3)),
        'p2t_128.pt',
        'imagenet_224',
        128,
        150,
        IMAGENET,
    ),
    'tnt': Classifier(
        'TNT',
        TNT,
        lambda config: {
            'arch': {
                **_chosen(config, ('embed_dims_outer', 'embed_dims_inner', 'num_heads_outer', 'num_heads_inner')),
                'num_layers': config['depth'],
            },
            'out_type': 'cls_token',
            **_chosen(config, ('img_size', 'patch_size', 'inner_stride')),
        },
        lambda backbone, img: backbone(img)[-1],
        'tnt_64.pt',
        'imagenet-tnt_224',
        64,
        71,
        HALF,
    ),
    'nest': Classifier(
        'NesT',
        NesT,
        lambda config: {
            'arch': _chosen(config, ('embed_dims', 'num_heads', 'depths')),
            'out_indices': -1,
            **_chosen(config, ('img_size', 'patch_size', 'block_size')),
        },
        lambda backbone, img: plain_nest(backbone, img)[-1].mean(dim=(2, 3)),
        'nest_64.pt',
        'imagenet-nest_224',
        64,
        79,
        IMAGENET,
    ),
}


def images_of(mini: Path, split: str) -> list[tuple[Path, int]]:
    """Paths and class numbers."""
    lines = (mini / f'imagenet/meta/{split}.txt').read_text().split('\n')
    pairs = [line.rsplit(' ', 1) for line in lines if line]
    return [(mini / 'imagenet' / split / name, int(number)) for name, number in pairs]


def network_input(path: Path, method: Classifier) -> torch.Tensor:
    """What the test pipeline should make of an image."""
    image = Image.open(path).convert('RGB')
    factor = method.shorter / min(image.size)
    width, height = (method.shorter if side == min(image.size) else int(side * factor) for side in image.size)
    image = image.resize((width, height), Image.BICUBIC)
    left, top = round((width - method.size) / 2), round((height - method.size) / 2)
    pixels = np.asarray(image.crop((left, top, left + method.size, top + method.size)), dtype=np.float64)
    mean, std = method.colours
    return torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)).float()[None]


def release_classifier(name: str, mini: Path) -> Release:
    """A recorded network of the authors' code, with a classifier that knows the mean feature of each class."""
    method = CLASSIFIERS[name]
    record = torch.load(DATA / method.file, weights_only=True)
    arguments = method.arguments(record['config'])
    backbone = method.build(**arguments, drop_path_rate=0.0).eval()
    ours = convert(record['state_dict'], name)
    backbone.load_state_dict({key[9:]: value for key, value in ours.items() if key.startswith('backbone.')})

    def feature(path: Path) -> torch.Tensor:
        with torch.no_grad():
            return method.feature(backbone, network_input(path, method))[0]

    known: dict[int, list[torch.Tensor]] = {}
    for path, number in images_of(mini, 'train'):
        known.setdefault(number, []).append(feature(path))
    width = len(next(iter(known.values()))[0])
    weight, bias = torch.zeros(CLASSES, width), torch.full((CLASSES,), -1e4)
    for number, features in known.items():
        mean = torch.stack(features).mean(dim=0)
        weight[number], bias[number] = mean, -mean.square().sum() / 2
    state = {**record['state_dict'], 'head.weight': weight, 'head.bias': bias}
    numbers = [number for _, number in images_of(mini, 'val')]
    guesses = [int((weight @ feature(path) + bias).argmax()) for path, _ in images_of(mini, 'val')]
    correct = sum(guess == number for guess, number in zip(guesses, numbers, strict=True))
    most = max(map(numbers.count, numbers))
    assert most < correct < len(numbers)  # neither one answer for all images nor every answer right has this value
    accuracy = 100 * correct / len(numbers)
    given = ', '.join(
        f'{key}={value!r}' for key, value in {'type': f'mmvit_ext.{method.collection}', **arguments}.items()
    )
    config = CLASSIFIER.format(
        method=name,
        dataset=method.dataset,
        root=str(mini),
        backbone=given,
        width=width,
        shorter=method.shorter,
        size=method.size,
    )
    return Release(
        row=f'{name}-golden_mini-imagenet',
        method=name,
        collection=method.collection,
        task='Image Classification',
        dataset='mini ImageNet',
        metric='Top 1 Accuracy',
        bytes=saved(state),
        config=config + RECIPE,
        value=accuracy,
    )


# Segmentation

SEGMENTOR = """
_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
]
data_root = {root!r} + '/ade/ADEChallengeData2016'
model = dict(
    data_preprocessor=dict(size=({crop}, {crop})),
    backbone=dict(
        arch='tiny',
        embed_dims={width},
        num_layers={layers},
        num_heads={heads},
        img_size={crop},
        out_indices=tuple(range({layers})),
        init_cfg=None,
    ),
    decode_head=dict(
        in_channels=[{width}] * {layers},
        channels={embed_dims},
        num_heads={num_heads},
        num_layers={num_layers},
        num_classes={{{{_base_.num_classes}}}},
    ),
    test_cfg=dict(crop_size=({crop}, {crop}), stride=({stride}, {stride})),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale={scale})
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
val_dataloader = test_dataloader
"""
ADE_CLASSES, CROP, STRIDE, SCALE = 150, 64, 48, (512, 128)
PATCH, HEADS, STEPS = 16, 2, 60


def random_vit(width: int, layers: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A small ViT with random weights in the names of the authors' backbone."""

    def weights(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    state = {
        'cls_token': weights(1, 1, width),
        'pos_embed': weights(1, 1 + (CROP // PATCH) ** 2, width),
        'patch_embed.projection.weight': weights(width, 3, PATCH, PATCH),
        'patch_embed.projection.bias': weights(width),
    }
    for layer in range(layers):
        for name, shape in (
            ('ln1', (width,)),
            ('attn.attn.in_proj_', (3 * width, width)),
            ('attn.attn.out_proj', (width, width)),
            ('ln2', (width,)),
            ('ffn.layers.0.0', (4 * width, width)),
            ('ffn.layers.1', (width, 4 * width)),
        ):
            dot = '' if name.endswith('_') else '.'
            state[f'layers.{layer}.{name}{dot}weight'] = weights(*shape)
            state[f'layers.{layer}.{name}{dot}bias'] = weights(shape[0])
    return state


def vit_maps(state: Mapping[str, torch.Tensor], img: torch.Tensor) -> list[torch.Tensor]:
    """Maps of all layers of :func:`random_vit`, in plain operations."""
    x = F.conv2d(img, state['patch_embed.projection.weight'], state['patch_embed.projection.bias'], stride=PATCH)
    grid = x.shape[2:]
    x = x.flatten(2).transpose(1, 2) + state['pos_embed'][:, 1:]
    B, N, C = x.shape
    outs = []
    for layer in range(sum(name.endswith('ln1.weight') for name in state)):

        def apply(function, x, name, *rest, layer=layer):
            name = f'layers.{layer}.{name}'
            return function(x, *rest, state[f'{name}weight'], state[f'{name}bias'])

        qkv = apply(F.linear, apply(F.layer_norm, x, 'ln1.', (C,)), 'attn.attn.in_proj_')
        q, k, v = qkv.reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(2, 3)) * (C // HEADS) ** -0.5).softmax(dim=-1) @ v
        x = x + apply(F.linear, attended.transpose(1, 2).reshape(B, N, C), 'attn.attn.out_proj.')
        hidden = F.gelu(apply(F.linear, apply(F.layer_norm, x, 'ln2.', (C,)), 'ffn.layers.0.0.'))
        x = x + apply(F.linear, hidden, 'ffn.layers.1.')
        outs.append(x.transpose(1, 2).unflatten(2, grid))
    return outs


def scenes(mini: Path, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the test pipeline should make of every image ``(1, 3, h, w)``, and labels ``(H, W)``, -1 for none."""
    root = mini / 'ade/ADEChallengeData2016'
    for path in sorted((root / 'images' / split).iterdir()):
        pixels = np.array(Image.open(path).convert('RGB'), dtype=np.float64)
        height, width = pixels.shape[:2]
        factor = min(max(SCALE) / max(height, width), min(SCALE) / min(height, width))
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        image = torch.from_numpy(pixels.transpose(2, 0, 1))[None]
        image = F.interpolate(image, size=size, mode='bilinear', align_corners=False).round()
        mean, std = torch.from_numpy(HALF)[..., None, None]
        label = np.array(Image.open(root / 'annotations' / split / f'{path.stem}.png'), dtype=np.int64) - 1
        yield ((image - mean) / std).float(), torch.from_numpy(label)


def fit(scores: Callable[..., torch.Tensor], parameters: Sequence[torch.Tensor], mini: Path) -> None:
    """Teach a network a little, so that its mIoU tells it from others."""
    crops, labels = [], []
    for image, label in scenes(mini, 'training'):
        size = image.shape[2:]
        small = F.interpolate(label[None, None].float(), size=size, mode='nearest')[0, 0].long()
        for top in (0, size[0] - CROP):
            for left in (0, size[1] - CROP):
                crops.append(image[0, :, top : top + CROP, left : left + CROP])
                labels.append(small[top : top + CROP : 4, left : left + CROP : 4])
    images, targets = torch.stack(crops), torch.stack(labels)
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (8,), generator=generator)
        found = scores(images[chosen], tuple(targets.shape[1:]))
        loss = F.nll_loss((found / found.sum(dim=1, keepdim=True) + 1e-9).log(), targets[chosen], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def slide(scores: Callable[..., torch.Tensor], image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The class of every pixel ``(H, W)``: means of overlapping windows, the last of which end at the border."""

    def starts(length: int) -> list[int]:
        return sorted({min(start, length - CROP) for start in range(0, length - CROP + STRIDE, STRIDE)})

    total, count = torch.zeros(1, ADE_CLASSES, *image.shape[2:]), torch.zeros(image.shape[2:])
    for top in starts(image.shape[2]):
        for left in starts(image.shape[3]):
            window = (..., slice(top, top + CROP), slice(left, left + CROP))
            total[window] += scores(image[window], (CROP, CROP))
            count[window] += 1
    return F.interpolate(total / count, size=tuple(size), mode='bilinear', align_corners=False)[0].argmax(dim=0)


def class_ious(scores: Callable[..., torch.Tensor], mini: Path) -> np.ndarray:
    """In per cent, of the classes that the labels or the predictions have, pixels of all images counted together."""
    pairs = np.zeros((ADE_CLASSES, ADE_CLASSES))
    for image, label in scenes(mini, 'validation'):
        found = slide(scores, image, label.shape)
        labelled = label >= 0
        np.add.at(pairs, (label[labelled].numpy(), found[labelled].numpy()), 1)
    union = pairs.sum(axis=0) + pairs.sum(axis=1) - np.diag(pairs)
    return 100 * np.diag(pairs)[union > 0] / union[union > 0]


def release_segmentor(mini: Path) -> Release:
    """The recorded decoder of the authors' code, with a small ViT and queries for the classes of ADE20K."""
    pytest.importorskip('mmseg')
    from benchmarks.plain_atm import plain_decode, plain_fuse
    from mmvit_ext.models.decode_heads import ATMHead

    record = torch.load(DATA / 'segvit_atm.pt', weights_only=True)
    config, layers, generator = record['config'], record['config']['num_stages'], torch.Generator().manual_seed(0)
    width, embed_dims = config['in_channels'], config['embed_dims']
    vit = random_vit(width, layers, generator)
    fitted = {
        'q.weight': torch.randn(ADE_CLASSES, embed_dims, generator=generator),
        'class_embed.weight': 0.1 * torch.randn(ADE_CLASSES + 1, embed_dims, generator=generator),
        'class_embed.bias': torch.zeros(ADE_CLASSES + 1),
        'loss_decode.criterion.empty_weight': torch.ones(ADE_CLASSES + 1),
    }
    head = ATMHead(
        [width] * layers,
        embed_dims,
        num_classes=ADE_CLASSES,
        in_index=range(layers),
        num_heads=config['num_heads'],
        num_layers=config['num_layers'],
        dropout_ratio=0.0,
    )
    head.load_state_dict(convert({**record['state_dict'], **fitted}, 'segvit'))
    head.requires_grad_(False).eval()

    def scores(img: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return plain_fuse(*plain_decode(head, vit_maps(vit, img))[-1], size)

    learned = {
        'q.weight': head.class_queries.weight,
        'class_embed.weight': head.class_embed.weight,
        'class_embed.bias': head.class_embed.bias,
    }
    parameters = [*(tensor for name, tensor in vit.items() if name != 'cls_token'), *learned.values()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    fit(scores, parameters, mini)
    decoder = {**record['state_dict'], **fitted, **learned}
    state = {f'backbone.{name}': tensor for name, tensor in vit.items()}
    state |= {f'decode_head.{name}': tensor for name, tensor in decoder.items()}
    with torch.no_grad():
        ious = class_ious(scores, mini)
    assert (ious > 10).sum() > 2  # one class for all pixels has another mean, and so has another network
    numbers = {name: config[name] for name in ('embed_dims', 'num_heads', 'num_layers')}
    text = SEGMENTOR.format(
        root=str(mini), crop=CROP, stride=STRIDE, scale=SCALE, width=width, layers=layers, heads=HEADS, **numbers
    )
    return Release(
        row='segvit-golden_mini-ade20k',
        method='segvit',
        collection='SegViT',
        task='Semantic Segmentation',
        dataset='mini ADE20K',
        metric='mIoU',
        bytes=saved({name: tensor.detach() for name, tensor in state.items()}),
        config=text + RECIPE,
        value=float(ious.mean()),
        slack=0.05,
    )


RELEASES: Mapping[str, Callable[[Path], Release]] = {
    **{name: partial(release_classifier, name) for name in CLASSIFIERS},
    'segvit': release_segmentor,
}
"""What makes the release of a method, from the folder of the mini dataset."""
