import re

import pytest
import torch
import yaml

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.evaluation import count_flops
from mmvit_ext.models.segmentors import ScoreTTAModel
from tests.config_tools import CONFIGS, ROOT, small_config

configs = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
DATASETS = {
    'ADE20KDataset': 'ade20k',
    'COCOStuffDataset': 'coco_stuff10k',
    'PascalContextDataset': 'pascal_context',
    'PascalContextDataset59': 'pascal_context',
}


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('mini') / 'data'
    make_mini_dataset(root, images=4, size=(60, 80), seed=0)
    return {dataset: root / DATA_ROOTS[layout] for dataset, layout in DATASETS.items()}


def build_on_meta(cfg):
    """The full-size model without its memory."""
    init_default_scope(cfg.default_scope)
    if cfg.model.backbone.type == 'SwinTransformer':  # computes with tensors while it is built
        return MODELS.build(cfg.model).to('meta')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@configs
def test_full_size_model_builds_and_costs_what_was_published(path):
    """Operations within 2 % of the paper's.

    The paper counts multiply-adds of one forward pass at the crop's size, attention and the product that mixes the
    masks at full resolution included, interpolation, normalisation and activations not.
    """
    cfg = Config.fromfile(path)
    model = build_on_meta(cfg).eval()
    assert model.decode_head.num_classes == model.out_channels
    published = metadata(path).get('GFLOPs')
    if published is not None:
        img = torch.empty(1, 3, *cfg.crop_size, device='meta')
        counted = count_flops(lambda: model.encode_decode(img, [{'img_shape': cfg.crop_size}])) / 2e9
        assert counted == pytest.approx(published, rel=0.02)
        assert counted == pytest.approx(metadata(path)['GFLOPs counted here'], abs=0.051)


def metadata(path):
    """The metafile's entry of a config."""
    index = yaml.safe_load((path.parent / 'metafile.yml').read_text())
    (model,) = [model for model in index['Models'] if model['Name'] == path.stem]
    return model['Metadata']


@configs
def test_decay_rules_name_parameters_that_exist(path):
    cfg = Config.fromfile(path)
    model = build_on_meta(cfg)
    for key in cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {}):
        assert any(key in name for name, _ in model.named_parameters()), key


@configs
def test_config_trains_an_iteration_and_predicts_on_the_mini_data(path, mini_data, tmp_path):
    runner = Runner.from_cfg(small_config(path, mini_data, tmp_path))
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters() if p.requires_grad}
    runner.train()
    changed = [
        name for name, p in runner.model.named_parameters() if p.requires_grad and not torch.equal(p, before[name])
    ]
    assert len(changed) > len(before) // 2
    assert list(tmp_path.glob('best_mIoU_iter_1.pth'))


@pytest.mark.parametrize('name', ['segvit_vit-b16_8xb2-160k_ade', 'segvit-shrunk_vit-l16_8xb2-80k_pascal-context-59'])
def test_multi_scale_testing_averages_the_scores_of_twelve_views(name, mini_data, tmp_path, monkeypatch):
    (path,) = [path for path in CONFIGS if path.stem.startswith(name)]
    cfg = small_config(path, mini_data, tmp_path)
    views = []
    merge = ScoreTTAModel.merge_preds
    monkeypatch.setattr(ScoreTTAModel, 'merge_preds', lambda self, x: views.extend(map(len, x)) or merge(self, x))
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    metrics = Runner.from_cfg(cfg).test()
    assert views == [12, 12]
    assert 0 <= metrics['mIoU'] <= 100


@configs
def test_config_states_batch_command_and_where_its_figures_come_from(path):
    text, cfg = path.read_text(), Config.fromfile(path)
    record = text.split('"""')[1]
    assert cfg.auto_scale_lr.base_batch_size == int.__mul__(*map(int, re.search(r'_(\d+)xb(\d+)', path.stem).groups()))
    assert str(path.relative_to(ROOT)) in record
    assert len(text.splitlines()) <= 70
    assert 'Not trained here' in record or 'No row of a paper' in record


def test_names_of_configs_are_unique():
    names = [path.name for path in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('folder', sorted({path.parent for path in CONFIGS}), ids=lambda folder: folder.name)
def test_metafile_names_every_config_and_only_those(folder):
    index = yaml.safe_load((folder / 'metafile.yml').read_text())
    named = [ROOT / model['Config'] for model in index['Models']]
    assert sorted(named) == sorted(path for path in CONFIGS if path.parent == folder)
    for model in index['Models']:
        assert model['Name'] == (ROOT / model['Config']).stem
    assert str((folder / 'metafile.yml').relative_to(ROOT)) in (ROOT / 'model-index.yml').read_text()
