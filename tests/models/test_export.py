import copy

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.export import TORCH, ScoreMap, export_segmentor, write_exported
from tests.config_tools import ROOT, shrink_model

NAMES = ['segvit_vit-b16', 'segvit-shrunk_vit-b16']
needs_export = pytest.mark.skipif(TORCH < (2, 5), reason='torch.export and its ONNX exporter are younger')
needs_compile = pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')


def build(name, small=True):
    cfg = Config.fromfile(ROOT / 'configs' / 'segvit' / f'{name}_8xb2-160k_ade20k-512x512.py')
    init_default_scope('mmseg')
    if small:
        shrink_model(cfg.model)
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
        expected = ScoreMap(model, (48, 80))(img)
    program = export_segmentor(model, (48, 80))
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
    model, img = build(name, small=False), torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        expected = ScoreMap(model, (512, 512))(img)
        exported = export_segmentor(model, (512, 512)).module()(img)
    torch.testing.assert_close(exported, expected, atol=1e-4, rtol=0)


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
