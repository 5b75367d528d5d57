"""Bad input ends in one sentence that names it: no traceback, no hanging, no memory without bounds.

The inputs are drawn from a seed. Every maker of :mod:`tests.fuzz.images`, ``annotations``, ``checkpoints`` and
``overrides`` has its turn before any has a second one. Good input may be among it: exit code 0 is right as well.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmvit_ext.checkpoints.convert import METHODS
from mmvit_ext.checkpoints.reading import read_checkpoint
from mmvit_ext.engine import training
from mmvit_ext.inference import predict as inference
from tests.fuzz import annotations
from tests.fuzz.annotations import ANNOTATIONS
from tests.fuzz.checkpoints import CHECKPOINTS
from tests.fuzz.contract import Result, breaches, run
from tests.fuzz.images import IMAGES, LABELS
from tests.fuzz.overrides import OVERRIDES
from tests.tools.conftest import CONFIG, call_tool

SEED = 0
#: Cases by kind, in the short form and in the long one.
COUNTS = {
    'image': (14, 110),
    'label': (7, 50),
    'annotation': (7, 70),
    'checkpoint': (7, 45),
    'conversion': (7, 60),
    'override': (5, 45),
}
COCO = """
default_scope = 'mmdet'
dataset = dict(
    type='CocoDataset',
    data_root={root!r},
    ann_file='annotations.json',
    data_prefix=dict(img=''),
    metainfo=dict(classes=('cat', 'dog')),
    pipeline=[
        dict(type='mmvit_ext.LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(32, 32), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ],
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dataset
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
model = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8))
"""


def parametrize(kind: str, makers: dict[str, Any]) -> Callable:
    """A test per case; those beyond the short form are slow. In the short form the makers take turns."""
    short, long = COUNTS[kind]
    names = list(makers)
    cases = [(names[number % len(names)], number) for number in range(long)]
    # Evenly over all makers, so that the short form has some of each sort of mistake.
    chosen = set(np.linspace(0, min(len(names), long) - 1, min(short, len(names)), dtype=int).tolist())
    return pytest.mark.parametrize(
        ('name', 'number'),
        [
            pytest.param(*case, id=f'{case[1]}: {case[0]}', marks=() if case[1] in chosen else pytest.mark.slow)
            for case in cases
        ],
    )


def generator(kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng((SEED, zlib.crc32(kind.encode()), number))


def test_there_are_at_least_300_cases_of_which_about_40_are_short() -> None:
    assert sum(long for _, long in COUNTS.values()) >= 300
    assert 40 <= sum(short for short, _ in COUNTS.values()) <= 50
    for kind, makers in (
        ('image', IMAGES),
        ('label', LABELS),
        ('annotation', ANNOTATIONS),
        ('checkpoint', CHECKPOINTS),
    ):
        assert COUNTS[kind][1] >= 2 * len(makers), f'{kind}: every maker has its turn twice'


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process and holds it to the contract."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')

    def of_command(command: Callable[[], int], *names: object) -> Result:
        for kind in (DefaultScope, MessageHub, MMLogger):
            kind._instance_dict.clear()

        def captured() -> tuple[int, str]:
            capfd.readouterr()
            code = command()
            return code, ''.join(capfd.readouterr())

        result = run(captured)
        sys.stdout.write(result.output[-6000:])
        assert not breaches(result, tuple(map(str, names)))
        return result

    return of_command


# Predicting


@pytest.fixture
def one_predictor(trained: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Config and checkpoint; the model is built once for all images, which is most of a case's time."""
    files = str(trained / 'config.py'), str(trained / 'work_dir' / 'iter_2.pth')
    build = inference.Predictor

    def keep(*args: Any, **options: Any) -> inference.Predictor:
        if str(trained) not in _PREDICTORS:
            _PREDICTORS[str(trained)] = build(*args, **options)
        return _PREDICTORS[str(trained)]

    monkeypatch.setattr(inference, 'Predictor', keep)
    return files


_PREDICTORS: dict[str, inference.Predictor] = {}


@parametrize('image', IMAGES)
def test_predict_keeps_the_contract_on_images(
    name: str, number: int, one_predictor: tuple[str, str], tmp_path: Path, check: Callable[..., Result]
) -> None:
    path = IMAGES[name](generator('image', number), tmp_path)
    arguments = [*one_predictor, str(path), '--out', 'out', '--save-mask']
    result = check(lambda: call_tool('predict', arguments), path.name)
    labels = list(Path('out').glob('labels/*'))
    if result.code == 0:
        size = read_size(path)
        assert [Image.open(label).size for label in labels] == [size]
    else:
        assert not labels
    assert not list(Path('out').rglob('.*')), 'half a result'


def read_size(path: Path) -> tuple[int, int]:
    """Width and height as a viewer shows the image."""
    with Image.open(path) as image:
        turned = image.getexif().get(274) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size


@parametrize('checkpoint', CHECKPOINTS)
def test_predict_keeps_the_contract_on_checkpoints(
    name: str, number: int, trained: Path, tmp_path: Path, check: Callable[..., Result]
) -> None:
    state = read_checkpoint(trained / 'work_dir' / 'iter_2.pth')['state_dict']
    path = CHECKPOINTS[name](generator('checkpoint', number), tmp_path, state)
    image = next((trained / 'data' / 'images').iterdir())
    arguments = [str(trained / 'config.py'), str(path), str(image), '--out', 'out']
    check(lambda: call_tool('predict', arguments), path.name)
    assert not (tmp_path / 'trap').exists(), 'code from the file has run'


# Converting


@parametrize('conversion', CHECKPOINTS)
def test_converters_keep_the_contract(
    name: str, number: int, trained: Path, tmp_path: Path, check: Callable[..., Result]
) -> None:
    rng = generator('conversion', number)
    state = read_checkpoint(trained / 'work_dir' / 'iter_2.pth')['state_dict']
    path = CHECKPOINTS[name](rng, tmp_path, state)
    # Each maker meets another method every time.
    method = sorted(METHODS)[(number // len(CHECKPOINTS) + number) % len(METHODS)]
    result = check(lambda: call_tool('convert_checkpoint', [method, str(path), 'converted.pth']), path.name)
    assert Path('converted.pth').exists() == (result.code == 0)
    assert not (tmp_path / 'trap').exists(), 'code from the file has run'


# Beginning to train


class FirstBatch:
    """In place of a runner: loads a batch and trains nothing."""

    def __init__(self, cfg: Config, *_: Any, **__: Any) -> None:
        self.cfg = cfg

    def train(self) -> None:
        next(iter(Runner.build_dataloader(self.cfg.train_dataloader, seed=0)))


def first_batch(arguments: list[str]) -> int:
    """What training does up to its first batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'build_runner', FirstBatch)
        return call_tool('train', arguments)


def segmentation_config(root: Path, **suffixes: str) -> str:
    path = root / 'config.py'
    lines = [f"train_dataloader['dataset']['{key}'] = {value!r}" for key, value in suffixes.items()]
    path.write_text(
        '\n'.join([CONFIG.format(root=str(root)), *lines, 'val_cfg = val_dataloader = val_evaluator = None'])
    )
    return str(path)


@parametrize('label', LABELS)
def test_training_keeps_the_contract_on_label_maps(
    name: str, number: int, tmp_path: Path, check: Callable[..., Result]
) -> None:
    rng = generator('label', number)
    for folder in ('images', 'labels', 'made'):
        (tmp_path / folder).mkdir()
    made = LABELS[name](rng, tmp_path / 'made')
    Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / 'images' / 'a.png')
    label = made.rename(tmp_path / 'labels' / f'a{made.suffix}')
    config = segmentation_config(tmp_path, seg_map_suffix=made.suffix)
    check(lambda: first_batch([config]), label.name)


@parametrize('annotation', ANNOTATIONS)
def test_training_keeps_the_contract_on_coco_files(
    name: str, number: int, tmp_path: Path, check: Callable[..., Result]
) -> None:
    pytest.importorskip('mmdet')
    path = ANNOTATIONS[name](generator('annotation', number), tmp_path)
    pixels = np.zeros((*annotations.SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / annotations.IMAGE)
    config = tmp_path / 'config.py'
    config.write_text(COCO.format(root=str(tmp_path)))
    check(lambda: first_batch([str(config)]), path.name, *annotations.PATHS)


@parametrize('override', OVERRIDES)
def test_training_keeps_the_contract_on_overrides(
    name: str, number: int, trained: Path, tmp_path: Path, check: Callable[..., Result]
) -> None:
    config = trained / 'config.py'
    option = OVERRIDES[name](generator('override', number), Config.fromfile(config))
    arguments = [str(config), '--work-dir', 'runs', '--cfg-options', option, 'train_cfg.max_iters=1']
    key = option.partition('=')[0]
    with_threads = torch.get_num_threads()
    try:
        check(lambda: exit_code(arguments), key, key.rpartition('.')[2], 'config.py')
    finally:
        torch.set_num_threads(with_threads)


def exit_code(arguments: list[str]) -> int:
    """Of a command whose parser may end the process."""
    try:
        return call_tool('train', arguments)
    except SystemExit as error:
        return int(error.code or 0)
