"""The one place that builds a model from a config."""

import copy

import pytest
from mmengine.config import Config

from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config
from mmvit_ext.engine.testing import test as run_test
from mmvit_ext.engine.training import train
from mmvit_ext.errors import UserError
from mmvit_ext.models.backbones.vit import ViT
from tests.tools.conftest import CONFIG, write_pair

pytest.importorskip('mmseg')


@pytest.fixture
def cfg(tmp_path):
    cfg = Config.fromstring(CONFIG.format(root=str(tmp_path / 'data')), '.py')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='absent.pth')
    return cfg


def test_names_and_shapes_are_known_without_memory_for_the_weights(cfg):
    before = copy.deepcopy(cfg.to_dict())
    real, meta = build_model(cfg).state_dict(), build_model(cfg, device='meta').state_dict()
    assert {key: value.shape for key, value in real.items()} == {key: value.shape for key, value in meta.items()}
    assert all(value.device.type == 'cpu' for value in real.values())
    assert all(value.device.type == 'meta' for value in meta.values())
    assert cfg.to_dict() == before


def test_pretrained_weights_are_not_asked_for(cfg):
    model = build_model(cfg)
    model.init_weights()  # would look for absent.pth
    assert model.backbone.init_cfg is None


def test_a_config_without_a_scope_is_refused():
    with pytest.raises(UserError, match='default_scope'):
        build_model(Config({'model': {'type': 'X'}}))


def test_training_and_testing_are_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        write_pair(tmp_path / 'data', f'image_{index}', index)
    config = tmp_path / f'library_{tmp_path.name}.py'
    config.write_text(CONFIG.format(root=str(tmp_path / 'data')))
    train(str(config), work_dir='run', seed=1, cfg_options={'train_cfg.max_iters': 1})
    metrics = run_test(str(config), 'run/iter_1.pth', work_dir='run')
    assert 0 <= metrics['mIoU'] <= 100
    assert load_config(config).train_cfg.max_iters == 2
    with pytest.raises(UserError, match='no checkpoint'):
        run_test(str(config), 'run/iter_9.pth', work_dir='run')


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        (dict(with_cls_token=False, output_cls_token=True), 'needs with_cls_token=True'),
        (dict(with_cls_token=False, out_type='cls_token'), 'needs with_cls_token=True'),
        (dict(output_cls_token=True, out_type='avg_featmap'), "needs out_type='featmap', got 'avg_featmap'"),
    ],
)
def test_outputs_of_a_vit_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ViT('tiny', img_size=32, **settings)
