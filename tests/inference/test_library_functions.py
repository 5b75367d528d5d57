"""The libraries' own inference functions on the configs of this package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs'
SEGMENTORS = (
    'segvit/segvit_vit-ti16_1xb8-600_mini-ade20k-192x192',
    'segvit/segvit-shrunk_vit-ti16_1xb8-400_mini-ade20k-192x192',
    'p2t/sem-fpn_p2t-mini_1xb8-400_mini-ade20k-192x192',
    'spformer/setr-superpixel_spformer-mini_1xb8-300_mini-ade20k-192x192',
    'tnt/setr-naive_tnt-mini_1xb8-300_mini-ade20k-192x192',
)
DETECTORS = ('p2t/mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco', 'p2t/retinanet_p2t-mini_fpn_1xb4-6e_mini-coco')
CLASSIFIERS = (
    'nest/nest-mini_1xb8-450_mini-imagenet-96x96',
    'nest/cam_nest-mini_mini-imagenet-96x96',
    'nest/nest-cifar-t_1xb192-300e_cifar10-32x32',
    'p2t/p2t-mini_1xb8-450_mini-imagenet-96x96',
    'spformer/spformer-mini_1xb8-450_mini-imagenet-96x96',
)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 90, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def _no_scope():
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


def pixels(image):
    """The image as the libraries want an array: BGR."""
    return np.ascontiguousarray(np.array(Image.open(image))[..., ::-1])


def test_no_config_hides_the_image_loader_from_the_libraries():
    for path in CONFIGS.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        assert 'mmvit_ext.LoadImageFromFile' not in text, path
        assert text.count("'LoadImageFromFile'") == text.count("'LoadImageFromFile', _scope_='mmvit_ext'"), path


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors(name, image):
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    config = str(CONFIGS / f'{name}.py')
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    for parameter in model.parameters():  # as they are, some heads give the same scores everywhere
        parameter.data += 0.1 * torch.randn_like(parameter)
    one, *others = inference_model(model, [image, image])
    assert one.pred_sem_seg.data.shape == (1, 72, 90)
    cut = one.seg_logits.data

    def same(found):
        return torch.allclose(found.seg_logits.data, cut, rtol=1e-3, atol=1e-3 * float(cut.std()))

    assert all(map(same, others))
    # After the first array the library's own loader of arrays stays in the config.
    assert same(inference_model(model, pixels(image)))
    assert not same(inference_model(model, pixels(image)[..., ::-1]))
    inferencer = MMSegInferencer(Config.fromfile(config), device='cpu')
    inferencer.model.load_state_dict(model.state_dict())
    for source in (image, pixels(image)):
        assert same(inferencer(source, return_datasamples=True))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', DETECTORS)
def test_detectors(name, image):
    pytest.importorskip('mmdet')
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    config = str(CONFIGS / f'{name}.py')
    model = init_detector(config, device='cpu')
    by_path, by_array = inference_detector(model, image), inference_detector(model, pixels(image))
    assert by_path.ori_shape == (72, 90)
    assert np.allclose(by_path.pred_instances.bboxes, by_array.pred_instances.bboxes)
    inferencer = DetInferencer(config, device='cpu')
    inferencer.model.load_state_dict(model.state_dict())
    for source in (image, pixels(image)):
        (found,) = inferencer(source, return_datasamples=True)['predictions']
        assert np.allclose(found.pred_instances.bboxes, by_path.pred_instances.bboxes)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classifiers(name, image):
    pytest.importorskip('mmpretrain')
    from mmpretrain import FeatureExtractor, ImageClassificationInferencer

    config = str(CONFIGS / f'{name}.py')
    inferencer = ImageClassificationInferencer(config, pretrained=False, device='cpu')
    by_path, by_array = inferencer([image, pixels(image)])
    assert by_path['pred_scores'].sum() == pytest.approx(1, abs=1e-4)
    assert np.allclose(by_path['pred_scores'], by_array['pred_scores'], atol=1e-6)
    if 'cam_nest' in name:  # it returns maps instead of features
        return
    extractor = FeatureExtractor(config, pretrained=False, device='cpu')
    (features,) = extractor(image, stage='pre_logits')
    assert np.isfinite(features.numpy()).all()


@pytest.mark.filterwarnings('ignore')
def test_mmpretrain_finds_the_classifiers_by_name_once_it_knows_the_index(image, monkeypatch):
    pytest.importorskip('mmpretrain')
    from mmpretrain.apis import ModelHub, inference_model

    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', True)
    ModelHub.register_model_index(CONFIGS.parent / 'model-index.yml', config_prefix=CONFIGS.parent)
    for name in ('p2t-ti_8xb128-300e_imagenet-224x224', 'tnt-ti_8xb128-300e_imagenet-224x224'):
        result = inference_model(name, image, pretrained=False, device='cpu')
        assert 0 <= result['pred_label'] < 1000


@pytest.mark.filterwarnings('ignore')
def test_loaders_with_their_scope_in_the_name_work_where_the_library_does_not_look_for_them(image):
    """In somebody's own config; only mmseg's inferencer needs the name without a scope."""
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmseg.apis import inference_model, init_model

    cfg = Config.fromfile(CONFIGS / f'{SEGMENTORS[0]}.py')
    cfg.test_pipeline[0] = dict(type='mmvit_ext.LoadImageFromFile')
    model = init_model(cfg, device='cpu')
    assert inference_model(model, image).pred_sem_seg.data.shape == (1, 72, 90)
    assert inference_model(model, pixels(image)).pred_sem_seg.data.shape == (1, 72, 90)
