import copy
import sys

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.export import TORCH, ImageScores, export_model, write_exported
from mmvit_ext.models.layers.open_sizes import is_open
from tests.config_tools import ROOT, shrink_model
from tests.zoo import BACKBONES

NAMES = ['segvit_vit-b16', 'segvit-shrunk_vit-b16']
needs_export = pytest.mark.skipif(TORCH < (2, 5), reason='torch.export and its ONNX exporter are younger')
needs_compile = pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')


def build(name, small=True):
    cfg = Config.fromfile(ROOT / 'configs' / 'segvit' / f'{name}_8xb2-160k_ade20k-512x512.py')
    init_default_scope('mmseg')
    if small:
        shrink_model(cfg.model)
        few = dict(shrink_index=1) if 'shrunk' in name else {}
        cfg.model.backbone.update(num_layers=2, out_indices=(0, 1), **few)
        cfg.model.decode_head.update(num_layers=1, in_channels=cfg.model.decode_head.in_channels[:2], in_index=[0, 1])
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1 if small else 0.02)
    return model.eval()


@pytest.mark.parametrize('name', NAMES)
@needs_export
def test_exported_graphs_give_what_the_model_gives(name, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    model, img = build(name), torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        expected = ImageScores(model)(img)
    program = export_model(model, (48, 80))
    torch.testing.assert_close(program.module()(img), expected, atol=1e-4, rtol=0)
    write_exported(program, tmp_path / 'model.pt2')
    torch.testing.assert_close(torch.export.load(tmp_path / 'model.pt2').module()(img), expected, atol=1e-4, rtol=0)
    write_exported(program, tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    (out,) = session.run(None, {session.get_inputs()[0].name: img.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
@needs_export
def test_full_size_vit_b_exports(name):
    model, img = build(name, small=False), torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        expected = ImageScores(model)(img)
        exported = export_model(model, (256, 256)).module()(img)
    torch.testing.assert_close(exported, expected, atol=1e-4, rtol=0)


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', BACKBONES)
def test_what_an_open_size_does_gives_what_a_known_one_does(name, monkeypatch):
    """The ways that a graph with open sizes takes, run on known sizes."""
    row = BACKBONES[name]
    variants = [{}, *({'pool_type': 'max'} for _ in range(name == 'P2T'))]
    for variant in variants:
        model = row.make(**variant).eval()
        for size in ((37, 61), (96, 64), (40, 40)):
            with monkeypatch.context() as patched, torch.no_grad():
                expected = model(images(2, 3, *size))
                for module in list(sys.modules.values()):
                    if getattr(module, 'is_open', None) is is_open:
                        patched.setattr(module, 'is_open', lambda *edges: True)
                for one, other in zip(model(images(2, 3, *size)), expected, strict=True):
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_model_whose_operations_depend_on_the_size_is_refused_as_dynamic():
    if TORCH < (2, 6):
        pytest.skip('dynamic sizes need torch 2.6')

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, img, mode):
            return self.conv(img).mean(3) if img.shape[2] == 48 else self.conv(img).mean(2)

    with pytest.raises(UserError, match=r'one size only.*leave --dynamic out'):
        export_model(Fixed(), (48, 48), dynamic=True)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'ends in \.pt2'):
        write_exported(None, tmp_path / 'model.pb')


@pytest.mark.parametrize('name', NAMES)
@needs_compile
def test_decoder_compiles_without_a_graph_break(name):
    model = build(name).train()
    features = [feature.detach() for feature in model.extract_feat(torch.randn(2, 3, 48, 80))]
    explanation = torch._dynamo.explain(model.decode_head.decode)(features)
    assert explanation.graph_break_count == 0, explanation.break_reasons


@pytest.mark.parametrize('name', NAMES)
@needs_compile
def test_compiled_training_step_equals_the_eager_one(name):
    torch._dynamo.reset()
    model = build(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, 'dropout', None), float):  # of attention weights
            module.dropout = 0.0
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.0
    img, label = (
        torch.randn(2, 3, 48, 80),
        torch.randint(0, 150, (2, 6, 10)).repeat_interleave(8, 1).repeat_interleave(8, 2),
    )

    def step(model, img, label):
        losses = model.decode_head.loss_decode(model.decode_head.decode(model.extract_feat(img)), label)
        return sum(value for key, value in losses.items() if key.startswith('loss'))

    compiled = copy.deepcopy(model)
    eager_loss, compiled_loss = step(model, img, label), torch.compile(step, backend='aot_eager')(compiled, img, label)
    torch.testing.assert_close(compiled_loss, eager_loss, rtol=1e-4, atol=1e-4)
    eager_loss.backward()
    compiled_loss.backward()
    gradients = dict(model.named_parameters())
    for name_, parameter in compiled.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name_].grad, rtol=1e-3, atol=1e-4, msg=name_)
