"""Pixels without a label have the value that the head or the dataset says, in every part of a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmseg')

from mmvit_ext.checks.before_run import check_before_run
from mmvit_ext.config.labels import ignored_label
from mmvit_ext.config.loading import prepare_scope
from mmvit_ext.errors import UserError
from tests.tools.conftest import CONFIG


@pytest.fixture
def cfg(data_root):
    cfg = Config.fromstring(CONFIG.format(root=str(data_root)), '.py')
    del cfg.model.data_preprocessor['seg_pad_val']
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        for step in dataset.pipeline:
            step.pop('num_classes', None)
    return cfg


def test_a_config_that_says_nothing_stays_as_it_is(cfg):
    before = cfg.to_dict()
    prepare_scope(cfg)
    assert ignored_label(cfg) == 255
    assert cfg.train_dataloader.dataset.pipeline[1].num_classes == 3
    del cfg.train_dataloader.dataset.pipeline[1]['num_classes']
    assert cfg.train_dataloader.to_dict() == before['train_dataloader']
    assert cfg.model.to_dict() == before['model']


@pytest.mark.parametrize('source', ['head', 'dataset'])
def test_every_part_follows_the_head_or_the_dataset(cfg, source):
    if source == 'head':
        cfg.model.decode_head.ignore_index = 41
    else:
        cfg.train_dataloader.dataset.ignore_index = 41
    cfg.train_dataloader.dataset.pipeline += [
        dict(type='Pad', size=(64, 64), pad_val=7),
        dict(type='RandomRotate', prob=0.5, degree=10),
        dict(type='RandomApply', transforms=[dict(type='mmvit_ext.PasteOccluder', area=0.1)]),
    ]
    cfg.model.decode_head.loss_decode = [dict(type='CrossEntropyLoss'), dict(type='DiceLoss', ignore_index=0)]
    cfg.test_evaluator = [cfg.test_evaluator, dict(type='mmvit_ext.TrimapIoUMetric')]
    cfg.custom_hooks = [dict(type='mmvit_ext.LabelRangeHook')]
    prepare_scope(cfg)
    assert ignored_label(cfg) == 41
    _, load, crop, _, pad, rotate, apply = cfg.train_dataloader.dataset.pipeline
    assert (load.ignore_index, load.num_classes, crop.ignore_index) == (41, 3, 41)
    assert pad.pad_val == {'img': 7, 'seg': 41}
    assert rotate.seg_pad_val == apply.transforms[0].ignore_index == 41
    assert cfg.model.data_preprocessor.seg_pad_val == cfg.model.decode_head.ignore_index == 41
    assert cfg.model.decode_head.loss_decode[1].ignore_index == 0  # a class that is left out on purpose
    assert [metric.ignore_index for metric in cfg.test_evaluator] == [41, 41]
    assert cfg.custom_hooks[0].ignore_index == cfg.test_dataloader.dataset.ignore_index == 41
    assert cfg.tta_pipeline[1].transforms[1][0].ignore_index == 41
    again = cfg.to_dict()
    prepare_scope(cfg)
    assert cfg.to_dict() == again


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(ignore_index=9), 'pipeline.1.ignore_index is 9'),
        (lambda cfg: cfg.test_evaluator.update(ignore_index=254), 'test_evaluator.ignore_index is 254'),
        (lambda cfg: cfg.model.data_preprocessor.update(seg_pad_val=0), 'data_preprocessor.seg_pad_val is 0'),
        (
            lambda cfg: cfg.model.decode_head.update(ignore_index=-1),
            'decode_head.ignore_index is -1: expected 0 to 255',
        ),
        (
            lambda cfg: cfg.train_dataloader.dataset.pipeline.append(dict(type='Pad', pad_val=dict(img=0, seg=3))),
            'pipeline.4.pad_val is 3',
        ),
    ],
)
def test_a_part_that_says_another_value_is_named(cfg, change, name):
    change(cfg)
    with pytest.raises(UserError, match=name.replace('.', r'\.')):
        prepare_scope(cfg)


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [
        (
            dict(reduce_zero_label=True),
            r'train_dataloader\.dataset\.pipeline\.1\.reduce_zero_label is True .* has False',
        ),
        (dict(num_classes=4), r'train_dataloader\.dataset\.pipeline\.1\.num_classes is 4 .* has 3'),
    ],
)
def test_a_label_loader_that_contradicts_its_dataset_is_named_before_the_run(cfg, entry, expected):
    prepare_scope(cfg)
    cfg.train_dataloader.dataset.pipeline[1].update(entry)
    with pytest.raises(UserError, match=expected):
        check_before_run(cfg, 'mmseg', ['train'])


def test_the_value_makes_no_difference_to_a_test_a_training_or_a_robustness_curve(
    trained, run_tool, make_config, data_root
):
    checkpoint, figures = trained / 'work_dir' / 'iter_2.pth', {}
    maps = {path: np.array(Image.open(path)) for path in (data_root / 'labels').iterdir()}
    for value in (255, 19):
        for path, labels in maps.items():
            unlabelled = labels.copy()
            unlabelled[:, :12] = value
            Image.fromarray(unlabelled).save(path)
        said = f"model['decode_head']['ignore_index'] = model['data_preprocessor']['seg_pad_val'] = {value}"
        config = make_config(said, name=f'ignored_{value}')
        assert run_tool('check', config)[0] == 0
        code, output = run_tool('train', config, '--work-dir', f'work_{value}', '--seed', '3')
        assert code == 0, output
        losses = re.findall(r'loss: (\S+)', output)
        assert losses
        assert run_tool('test', config, checkpoint, '--out', f'{value}.json')[0] == 0
        out = f'out_{value}'
        code, output = run_tool('robustness', 'rotation', config, checkpoint, '--angles', '0', '33', '--out', out)
        assert code == 0, output
        code, output = run_tool('robustness', 'occlusion', config, checkpoint, '--areas', '0.4', '--out', out)
        assert code == 0, output
        curves = [json.loads(Path(out, f'{kind}.json').read_text())[0]['y'] for kind in ('rotation', 'occlusion')]
        figures[value] = json.loads(Path(f'{value}.json').read_text()), curves, losses
    assert figures[255] == figures[19]
