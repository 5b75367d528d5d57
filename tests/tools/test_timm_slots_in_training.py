"""A family of timm's networks in each slot of the libraries: trained, stopped, resumed and used on the mini data."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from tests.models.test_timm_slots import heads
from tests.zoo import BACKBONES

pytest.importorskip('timm')
pytest.importorskip('skimage')

Run = Callable[..., tuple[int, str]]
CONFIGS = Path(__file__).parents[2] / 'configs'
WIDTH, EDGE, CLASSES, CROP = 24, 64, 150, 96
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

SLOTS = {
    'ATM': 'DINOv2',
    'SETR-naive': 'AugReg',
    'SETR-PUP': 'DeiT III',
    'SETR-MLA': 'MAE',
    'Semantic FPN': 'BEiT v2',
    'UPerNet': 'EVA-02',
    'linear': 'DINOv2 with registers',
    'RetinaNet': 'DINOv3',
    'Faster R-CNN': 'CLIP',
    'Mask R-CNN': 'SAM',
    'classification': 'SigLIP 2',
}

RESUMED = ('ATM', 'Mask R-CNN')
"""Slots whose run is also stopped and resumed: what that takes does not depend on the network."""


SMALL = (
    'pipelines = dict(train=_base_.train_pipeline, test=_base_.test_pipeline)',
    "pipelines['train'][2].update(scale=(448, 112))",
    f"pipelines['train'][3].update(crop_size=({CROP}, {CROP}))",
    "pipelines['test'][1].update(scale=(448, 112))",
    "train_dataloader['dataset'] = dict(pipeline=pipelines['train'])",
    "test_dataloader = dict(dataset=dict(pipeline=pipelines['test']))",
)
"""Lines of a config that halve the images of the mini dataset's segmentation."""


@HOOKS.register_module()
class LossesHook(Hook):
    """Writes the losses of every iteration, exactly, and sends the run a signal after one of them."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = {name: float(value).hex() for name, value in outputs.items() if 'loss' in name}
        with (Path(runner.work_dir) / 'losses.jsonl').open('a') as file:
            file.write(json.dumps([runner.iter + 1, losses]) + '\n')
        if runner.iter + 1 == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope='module')
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mini_dataset(out=tmp_path_factory.mktemp('data') / 'mini', images=8, size=(64, 96), seed=0)


def backbone_of(slot: str, **changes: Any) -> dict[str, Any]:
    tiny = dict(BACKBONES[SLOTS[slot]].tiny)
    return {'type': 'mmvit_ext.TimmViT', **tiny, 'patch_size': 16, 'img_size': EDGE, 'drop_path_rate': 0.1, **changes}


def segmentor(slot: str) -> tuple[list[str], dict[str, Any]]:
    head, neck = heads(WIDTH)[slot]
    model = {
        'type': 'EncoderDecoder',
        'data_preprocessor': {'type': 'SegDataPreProcessor', 'mean': MEAN, 'std': STD, 'bgr_to_rgb': True},
        'backbone': backbone_of(slot, depth=4, out_indices=(0, 1, 2, 3)),
        'neck': neck,
        'decode_head': {**head, 'num_classes': CLASSES},
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
    }
    model['data_preprocessor'] |= {'size': (CROP, CROP), 'pad_val': 0, 'seg_pad_val': 255}
    return ['_base_/mini/ade20k_192x192', '_base_/default_runtime', '_base_/mini/schedule_300'], {'model': model}


def detector(slot: str) -> tuple[list[str], dict[str, Any]]:
    width = 256 if SLOTS[slot] == 'SAM' else WIDTH
    one_stage = slot == 'RetinaNet'
    neck = {'type': 'mmvit_ext.PlainPyramid', 'in_channels': width, 'out_channels': 64, 'num_outs': 5}
    backbone = backbone_of(slot, out_indices=-1)
    model: dict[str, Any] = {
        'backbone': {**backbone, '_delete_': True},
        'neck': {**neck, 'scales': (2, 1, 0.5) if one_stage else (4, 2, 1, 0.5), '_delete_': True},
    }
    if slot == 'Faster R-CNN':
        model |= {'type': 'FasterRCNN', 'roi_head': {'mask_head': None, 'mask_roi_extractor': None}}
    file = 'retinanet_p2t-mini_fpn_1xb4-6e_mini-coco' if one_stage else 'mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco'
    return [f'p2t/{file}'], {'model': model}


def classifier(slot: str) -> tuple[list[str], dict[str, Any]]:
    backbone = backbone_of(slot, out_indices=-1, out_type='avg_featmap', _delete_=True)
    model = {'backbone': backbone, 'neck': None, 'head': {'in_channels': WIDTH}}
    return ['p2t/p2t-mini_1xb8-450_mini-imagenet-96x96'], {'model': model}


def write_config(path: Path, slot: str, mini: Path) -> str:
    """The config of a run of four iterations of two images, without validations."""
    kind = {'classification': (classifier, 'imagenet')}.get(
        slot, (detector, 'coco') if 'Net' in slot[6:] or 'CNN' in slot else (segmentor, 'ade20k')
    )
    bases, entries = kind[0](slot)
    entries |= dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    entries['train_dataloader'] = {'batch_size': 2}
    entries['custom_hooks'] = [{'type': 'LossesHook'}]
    entries['train_cfg'] = {'max_epochs': 1} if kind[0] is detector else {'max_iters': 4}
    if kind[0] is classifier:
        entries['default_hooks'] = {'checkpoint': {'interval': 2}}
    lines = [f'{name} = {value!r}' for name, value in entries.items()]
    if kind[0] is segmentor:
        lines += SMALL
    files = [str(CONFIGS / f'{base}.py') for base in bases]
    path.write_text('\n'.join([f'_base_ = {files!r}', *lines]) + '\n')
    return str(mini / DATA_ROOTS[kind[1]])


def losses_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / 'losses.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('slot', SLOTS)
def test_a_trained_model_predicts_and_a_stopped_run_resumes_exactly(
    slot: str, mini: Path, run_tool: Run, tmp_path: Path
) -> None:
    config = tmp_path / f'{SLOTS[slot].replace(" ", "-")}_{tmp_path.name}.py'
    root = write_config(config, slot, mini)
    options = ('--seed', '3', '--cfg-options', f'data_root={root}')
    code, output = run_tool('train', config, '--work-dir', 'whole', *options)
    assert code == 0, output[-3000:]
    whole = losses_of(Path('whole'))
    assert len(whole) >= 3
    name = Path(Path('whole/last_checkpoint').read_text()).name
    if slot in RESUMED:
        with pytest.raises(SystemExit) as end:
            run_tool('train', config, '--work-dir', 'halves', *options, 'custom_hooks.0.stop_after=2')
        assert end.value.code == 75
        assert [number for number, _ in losses_of(Path('halves'))] == [1, 2]
        code, output = run_tool('train', config, '--work-dir', 'halves', '--resume', *options)
        assert code == 0, output[-3000:]
        assert losses_of(Path('halves')) == whole
        first, second = (torch.load(f'{folder}/{name}', weights_only=False) for folder in ('whole', 'halves'))
        for key, value in first['state_dict'].items():
            assert torch.equal(value, second['state_dict'][key]), key
    image = next(path for path in sorted(Path(root).rglob('*.*')) if path.suffix in ('.jpg', '.JPEG'))
    code, output = run_tool('predict', config, f'whole/{name}', image, '--out', 'out', *options[2:])
    assert code == 0, output[-3000:]
    assert len(list(Path('out/overlays').iterdir())) == 1
