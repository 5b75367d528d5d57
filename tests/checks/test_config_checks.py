"""Overrides of configs, batch sizes, and the look-up of type names."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmvit_ext.checks.before_run import BatchSize, batch_size_of, check_num_classes
from mmvit_ext.checks.datasets import visit_datasets
from mmvit_ext.config.overrides import apply_cfg_options
from mmvit_ext.config.walking import iter_dataset_cfgs, without_labels
from mmvit_ext.errors.type_names import unknown_type_message
from mmvit_ext.errors.user_error import UserError


def config(**entries: object) -> Config:
    return Config({'default_scope': 'mmseg', **entries})


def test_data_root_replaces_the_old_value_in_wrapped_datasets_and_metrics_only() -> None:
    leaf = {'type': 'CocoDataset', 'data_root': 'data/coco/'}
    cfg = config(
        data_root='data/coco/',
        train_dataloader={'dataset': {'type': 'RepeatDataset', 'dataset': dict(leaf)}},
        val_dataloader={'dataset': {'type': 'ConcatDataset', 'datasets': [dict(leaf), {**leaf, 'data_root': 'other'}]}},
        val_evaluator={'type': 'CocoMetric', 'ann_file': 'data/coco/annotations/val.json'},
    )
    apply_cfg_options(cfg, {'data_root': '/mini'})
    assert cfg.train_dataloader.dataset.dataset.data_root == '/mini'
    assert [entry.data_root for entry in cfg.val_dataloader.dataset.datasets] == ['/mini', 'other']
    assert cfg.val_evaluator.ann_file == '/mini/annotations/val.json'


def test_data_root_that_no_dataset_uses_is_an_error() -> None:
    cfg = config(data_root='a', train_dataloader={'dataset': {'type': 'X', 'data_root': 'b'}})
    with pytest.raises(UserError, match='changes nothing'):
        apply_cfg_options(cfg, {'data_root': '/mini'})


def test_a_variable_names_the_keys_that_hold_its_value() -> None:
    cfg = config(crop=(64, 64), model={'type': 'X', 'size': (64, 64)}, train_cfg={'type': 'Y'})
    with pytest.raises(UserError, match=r'no effect; set model\.size instead'):
        apply_cfg_options(cfg, {'crop': (32, 32)})


def test_an_entry_of_a_list_is_set_by_its_index() -> None:
    cfg = config(model={'type': 'X', 'heads': [{'channels': 1}, {'channels': 2}]})
    apply_cfg_options(cfg, {'model.heads.1.channels': 7})
    assert cfg.model['heads'][1].channels == 7


def test_datasets_are_found_through_wrappers_with_their_keys() -> None:
    node = {'type': 'ConcatDataset', 'datasets': [{'type': 'A'}, {'type': 'RepeatDataset', 'dataset': {'type': 'B'}}]}
    found = [(key, dataset['type']) for key, dataset in iter_dataset_cfgs(node, 'd')]
    assert found == [('d.datasets.0', 'A'), ('d.datasets.1.dataset', 'B')]


@pytest.mark.parametrize(
    ('scope', 'model', 'key'),
    [
        ('mmseg', {'decode_head': [{'num_classes': 3}, {'num_classes': 4}]}, 'model.decode_head.1'),
        ('mmseg', {'decode_head': {'num_classes': 3}, 'auxiliary_head': {'num_classes': 4}}, 'model.auxiliary_head'),
        ('mmdet', {'roi_head': {'bbox_head': {'num_classes': 4}}}, 'model.roi_head.bbox_head'),
        ('mmpretrain', {'head': {'num_classes': 4}}, 'model.head'),
    ],
)
def test_every_head_is_compared_with_the_dataset(scope: str, model: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf'^{key}\.num_classes is 4 but data has 3 classes'):
        check_num_classes(config(model=model), scope, {'data': ['a', 'b', 'c'], 'unknown': None})
    check_num_classes(config(model=model), 'another', {'data': ['a', 'b', 'c']})


def test_a_type_without_its_scope_is_suggested_with_it() -> None:
    assert 'mmvit_ext.LoadSegAnnotations' in unknown_type_message('LoadSegAnnotation', 'transform', 'mmengine')
    assert 'did you mean mmvit_ext.WeightsReportHook' in unknown_type_message('WeightReportHook', 'hook', 'mmengine')


def test_a_type_of_a_missing_library_names_the_library() -> None:
    assert 'nowhere_at_all' in unknown_type_message('nowhere_at_all.Head', 'model', 'mmengine', 'model.head.type')


def test_the_total_batch_size_counts_processes_and_accumulation() -> None:
    cfg = config(
        train_dataloader={'batch_size': 2},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 2e-5}, 'accumulative_counts': 4},
        auto_scale_lr={'base_batch_size': 16, 'enable': False},
    )
    size = batch_size_of(cfg, 2)
    assert size is not None
    assert size.total == 16
    assert size.warning() is None
    single = batch_size_of(cfg, 1)
    assert single is not None
    assert single.factor == 0.5
    assert "0.5 times the recipe's 16" in str(single.warning())
    assert '1e-05' in str(single.warning())


def test_of_several_optimizers_the_batch_of_a_step_of_all_counts() -> None:
    parts = {name: {'optimizer': {}, 'accumulative_counts': count} for name, count in (('a', 2), ('b', 3))}
    size = batch_size_of(config(train_dataloader={'batch_size': 2}, optim_wrapper={'constructor': 'x', **parts}), 1)
    assert size is not None
    assert (size.accumulation, size.total) == (6, 12)


def test_panoptic_labels_are_left_out_of_a_prediction() -> None:
    load, resize = {'type': 'mmdet.LoadPanopticAnnotations'}, {'type': 'Resize'}
    assert without_labels([load, resize]) == [resize]


def test_scaling_leaves_accumulation_out_and_says_so() -> None:
    size = BatchSize(processes=1, per_process=2, accumulation=4, base=16, lr=0.016, scaled=True)
    assert size.used_lr == pytest.approx(0.002)
    assert '4 accumulated' in str(size.warning())


def test_a_config_without_a_batch_size_or_recipe_gets_no_warning() -> None:
    assert batch_size_of(config(train_dataloader={}), 1) is None
    size = batch_size_of(config(train_dataloader={'batch_size': 2}), 1)
    assert size is not None
    assert size.warning() is None
    assert 'recipe unknown' in str(size)


@pytest.mark.parametrize('classes', ['ship', 'a'])
@pytest.mark.parametrize('entry', ['mmseg.BaseSegDataset', 'mmdet.CocoDataset', 'mmpretrain.CustomDataset'])
def test_a_text_in_place_of_a_tuple_of_classes_is_named(tmp_path: Path, entry: str, classes: str) -> None:
    named = {'classes': classes}
    dataset = {'type': entry, **(named if 'Custom' in entry else {'metainfo': named}), 'data_root': str(tmp_path)}
    with pytest.raises(UserError, match=rf"classes is the text '{classes}', .*\('{classes}',\)"):
        list(visit_datasets(config(train_dataloader={'dataset': dataset}), ['train']))
