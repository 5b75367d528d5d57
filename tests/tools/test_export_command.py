"""``mmvit export``: what it refuses, and that its report on integers of 8 bit is measured."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.errors import UserError
from mmvit_ext.inference import export
from mmvit_ext.inference.export import TORCH
from tests.config_tools import config_named, small_config

needs_open_sizes = pytest.mark.skipif(TORCH < (2, 6), reason='open sizes need PyTorch 2.6')
Run = Callable[..., tuple[int, str]]
BACKBONE = """
model['backbone'] = dict(
    type='mmvit_ext.ViT', arch=dict(embed_dims=16, num_layers=1, num_heads=2, mlp_ratio=2), img_size=32, patch_size=8
)
"""


@pytest.fixture
def files(make_config: Callable[..., str], tmp_path: Path) -> tuple[str, str]:
    """A tiny segmentor with random weights."""
    cfg = load_config(make_config(BACKBONE))
    prepare_scope(cfg)
    torch.manual_seed(0)
    torch.save(build_model(cfg).state_dict(), tmp_path / 'model.pth')
    return str(cfg.filename), str(tmp_path / 'model.pth')


@needs_open_sizes
def test_the_report_on_integers_of_8_bit_is_measured(files: tuple[str, str], run_tool: Run) -> None:
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    code, output = run_tool('export', *files, 'model.onnx', '--dynamic', '--int8')
    assert code == 0
    found = re.findall(r'^(\S+\.onnx): [\d.]+ MiB, .*mIoU ([\d.]+), .*ms an image ([\d.]+)$', output, re.MULTILINE)
    rows = {name: (float(metric), float(time)) for name, metric, time in found}
    assert list(rows) == ['model.onnx', 'model_int8.onnx']
    assert run_tool('test', *files, '--out', 'metrics.json')[0] == 0
    assert rows['model.onnx'][0] == pytest.approx(json.loads(Path('metrics.json').read_text())['mIoU'], abs=0.02)
    assert min(time for _, time in rows.values()) > 0
    kinds = {node.op_type for node in onnx.load('model_int8.onnx').graph.node}
    assert {'DynamicQuantizeLinear', 'MatMulInteger'} <= kinds

    from mmvit_ext.evaluation.exported import compare

    cfg = load_config(files[0])
    prepare_scope(cfg)
    swapped = compare(cfg, build_model(cfg).eval(), ['model_int8.onnx', 'model.onnx'])  # weights are the graphs' own
    assert {name: metrics['mIoU'] for name, metrics in swapped.items()} == pytest.approx(
        {name: metric for name, (metric, _) in rows.items()}, abs=0.006
    )


@needs_open_sizes
def test_the_accuracy_of_a_classifiers_graph_is_that_of_the_classifier(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime')
    pytest.importorskip('mmpretrain')
    from mmengine.runner import Runner

    from mmvit_ext.evaluation.exported import compare
    from mmvit_ext.inference.export import export_model, write_exported

    make_mini_dataset(tmp_path / 'data', images=4, size=(60, 80), seed=0)
    data = {'ImageNet': tmp_path / 'data' / DATA_ROOTS['imagenet']}
    cfg = small_config(config_named('vit-mini'), data, tmp_path)
    cfg.model.backbone.num_layers = 1
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.indices = 4
    runner = Runner.from_cfg(cfg)
    model = runner.model.eval()
    write_exported(export_model(model, (64, 64), dynamic=True), tmp_path / 'model.onnx', model)
    expected = runner.test()
    (found,) = compare(cfg, model, [str(tmp_path / 'model.onnx')]).values()
    assert found.pop('ms an image') > 0
    assert found == pytest.approx(expected, abs=1e-3)
    seen, predict = [], model.test_step
    model.test_step = lambda batch: seen.append(batch['data_samples'][0].img_path) or predict(batch)
    compare(cfg, model, [str(tmp_path / 'model.onnx')], limit=2)
    dataset = runner.test_dataloader.dataset
    assert seen == [dataset.get_data_info(index)['img_path'] for index in (0, 3)]


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (('model.onnx', '--int8'), '--int8 measures images of several sizes: give it a file that ends in .onnx'),
        (('model.pt2', '--int8', '--dynamic'), 'give it a file that ends in .onnx and --dynamic'),
        (('model.onnx', '--dynamic', '--limit', '3'), '--limit 3: expected 1 or more images, and --int8'),
        (('model.onnx', '--dynamic', '--int8', '--limit', '0'), '--limit 0: expected 1 or more images'),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options, sentence, make_config, run_tool: Run) -> None:
    code, output = run_tool('export', make_config(), 'none.pth', *options)
    assert code == 2
    assert sentence in output


def test_a_detector_is_not_quantised(run_tool: Run) -> None:
    pytest.importorskip('mmdet')
    config = config_named('retinanet_p2t-mini')
    code, output = run_tool('export', config, 'none.pth', 'model.onnx', '--dynamic', '--int8')
    assert code == 2
    assert '--int8 measures segmentors and classifiers only' in output


def test_a_config_without_a_size_asks_for_one(run_tool: Run) -> None:
    pytest.importorskip('mmdet')
    config = config_named('retinanet_r18_fpn_1xb4-30e_bccd-240x320')
    code, output = run_tool('export', config, 'absent.pth', 'model.onnx')
    assert code == 2
    assert f'{config} states no size of images: give one, for example --size 512 512' in output


def test_int8_without_its_package_is_refused_before_anything_is_exported(
    files: tuple[str, str], run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    code, output = run_tool('export', *files, 'model.onnx', '--dynamic', '--int8')
    assert code == 2
    assert '--int8 needs onnxruntime: pip install onnxruntime, or leave --int8 out' in output
    assert not list(Path().glob('*.onnx'))


@pytest.mark.parametrize(('version', 'dynamic', 'needed'), [((2, 4), False, '2.5'), ((2, 5), True, '2.6')])
def test_a_pytorch_that_is_too_old_is_named(
    version: tuple[int, int], dynamic: bool, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, 'TORCH', version)
    with pytest.raises(
        UserError, match=rf'exporting needs torch {needed} or later, and this is {torch.__version__[:3]}'
    ):
        export.export_model(torch.nn.Identity(), (32, 32), dynamic=dynamic)
