"""Checkpoints as authors release them, made of recorded networks, and what these networks reach on the mini data.

The figures are worked out without the libraries: images are read with PIL, prepared in numpy or torch, networks are
run by hand, and accuracy and mIoU are counted here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.plain_nest import plain_nest
from benchmarks.plain_p2t import plain_p2t
from mmvit_ext.checkpoints import convert
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


RELEASES: Mapping[str, Callable[[Path], Release]] = {name: partial(release_classifier, name) for name in CLASSIFIERS}
"""What makes the release of a method, from the folder of the mini dataset."""
