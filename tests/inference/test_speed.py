"""Mixed precision and compilation reach what models call of a backbone, whichever method that is."""

import re

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from mmvit_ext.engine.optimizers import CPUAmpOptimWrapper
from mmvit_ext.errors import UserError
from mmvit_ext.inference.speed import speed_up
from mmvit_ext.models.classifiers.cam_classifier import class_maps
from mmvit_ext.models.superpixel_extractor import SuperpixelExtractor
from mmvit_ext.registry import MODELS
from tests.evaluation.test_cam_localization import SPFORMER, TNT, classifier
from tests.models.test_eomt import DINOV2, segmentor


def eomt(backbone):
    model = segmentor(backbone) if backbone else segmentor()
    return model, lambda x: [model.encode_decode(x, [{}])]


def extractor():
    torch.manual_seed(0)
    backbone = {key: value for key, value in SPFORMER.items() if key != 'out_type'}
    model = SuperpixelExtractor(MODELS.build(backbone)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model, lambda x: [similarity for module in model(x) for similarity in module]


def cam(backbone):
    model = classifier(dict(backbone, out_type='avg_featmap'), None)
    return model, lambda x: class_maps(model, x)


MADE = {
    'EoMT': lambda: eomt(None),
    'EoMT, timm': lambda: eomt(DINOV2),
    'superpixels': extractor,
    'maps of TNT': lambda: cam(TNT),
    'maps of SPFormer': lambda: cam(SPFORMER),
}


@pytest.mark.parametrize('name', MADE)
@torch.no_grad()
def test_every_model_computes_in_mixed_precision_and_gives_float32(name):
    model, run = MADE[name]()
    x = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    full = run(x)
    speed_up(model, torch.device('cpu'), amp=True)
    for half, exact in zip(run(x), full, strict=True):
        assert half.dtype == torch.float32
        finite = exact.isfinite()
        assert torch.equal(finite, half.isfinite())
        half, exact = half[finite], exact[finite]
        assert not torch.equal(half, exact)
        assert (half - exact).norm() < 0.1 * exact.norm()


def test_a_pytorch_that_is_too_old_to_compile_blocks_is_an_error(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.4.1')
    with pytest.raises(UserError, match=r'--compile has no effect .*from PyTorch 2\.5 on.*leave it out'):
        speed_up(segmentor(), torch.device('cpu'), compile=True)


@pytest.mark.parametrize('emulated', [True, False])
@pytest.mark.parametrize('route', ['training', 'inference', 'inference on a GPU'])
def test_a_processor_without_bfloat16_is_warned_of(route, emulated, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: not emulated)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (8, 0))
    model, said = segmentor(), []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, *where: said.append(text))
    if route == 'training':
        CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=1))
    else:
        speed_up(model, torch.device('cuda' if 'GPU' in route else 'cpu'), amp=True)
    warning = 'this processor only emulates bfloat16, .*: leave out --amp, or train with --no-amp'
    assert [bool(re.fullmatch(warning, text)) for text in said] == [True] * (emulated and 'GPU' not in route)
