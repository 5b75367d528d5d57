"""Detectors and a segmentor on P2T, at a small size, through the commands that a user types."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmcv.ops import roi_align
from mmdet.datasets import CocoDataset
from mmdet.models.necks import FPN
from PIL import Image
from torch import Tensor

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.models.backbones import P2T
from tests.config_tools import CONFIGS, PYRAMID, small_config

Run = Callable[..., tuple[int, str]]
DEMO = Path(__file__).resolve().parents[2] / 'tools' / 'demo.py'

CASES = {
    'mask-rcnn': ('mask-rcnn_p2t-mini_', 'coco', 'val2017', ('coco/bbox_mAP', 'coco/segm_mAP')),
    'retinanet': ('retinanet_p2t-mini_', 'coco', 'val2017', ('coco/bbox_mAP',)),
    'sem-fpn': ('sem-fpn_p2t-mini_', 'ade20k', 'images/validation', ('mIoU',)),
}
SIZE = (60, 80)


def load_demo() -> ModuleType:
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location('mmvit_ext_demo', DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('mini') / 'data'
    make_mini_dataset(root, images=4, size=SIZE, seed=0)
    return root


def pictures(folder: str | Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((Path(folder) / 'overlays').iterdir())}


@pytest.mark.parametrize('case', CASES)
def test_p2t_trains_evaluates_and_predicts_through_the_commands(
    case: str, mini: Path, run_tool: Run, tmp_path: Path
) -> None:
    start, layout, images, metrics = CASES[case]
    data_root = mini / DATA_ROOTS[layout]
    path = next(path for path in CONFIGS if path.stem.startswith(start))
    cfg = small_config(path, dict.fromkeys(('CocoDataset', 'ADE20KDataset'), data_root), tmp_path / 'run')
    config = tmp_path / f'{case}.py'
    cfg.dump(config)
    amp = ['--amp'] if case == 'mask-rcnn' else []  # mmcv's RoIAlign has no bfloat16 form
    code, output = run_tool('train', config, '--work-dir', 'run', *amp)
    assert code == 0, output[-2000:]
    (checkpoint,) = Path('run').glob('best_*.pth')
    code, output = run_tool('test', config, checkpoint, '--out', 'metrics.json')
    assert code == 0, output[-2000:]
    assert set(metrics) <= set(json.loads(Path('metrics.json').read_text()))

    folder = data_root / images
    code, output = run_tool('predict', config, checkpoint, folder, '--out', 'all', '--score-threshold', '0')
    assert code == 0, output[-2000:]
    everything = pictures('all')
    assert sorted(everything) == sorted(file.stem for file in folder.iterdir())
    for name, picture in everything.items():
        height, width = np.asarray(Image.open(folder / f'{name}.jpg')).shape[:2]
        # Names of classes need room: detections are drawn into the enlarged image, segments have a legend below.
        assert picture.shape[0] > height
        assert picture.shape[1] % width == 0 or layout == 'ade20k'
    if layout == 'coco':
        code, output = run_tool('predict', config, checkpoint, folder, '--out', 'none', '--score-threshold', '1')
        assert code == 0, output[-2000:]
        bare = pictures('none')
        assert all(bare[name].shape == picture.shape for name, picture in everything.items())
        assert all((bare[name] != picture).any() for name, picture in everything.items())


def test_a_threshold_that_is_no_score_is_refused_before_anything_is_read(run_tool: Run, tmp_path: Path) -> None:
    config = tmp_path / 'empty.py'
    config.write_text("default_scope = 'mmdet'")
    code, output = run_tool('predict', config, 'absent.pth', 'absent.jpg', '--out', 'out', '--score-threshold', '30')
    assert code == 2
    assert '--score-threshold must be 0 to 1, got 30' in output


def plain_roi_align(feature: Tensor, box: Tensor, bins: int) -> Tensor:
    """Bilinear samples at the middle of each of ``bins`` x ``bins`` cells of a box in a map (C, H, W)."""
    left, top, right, bottom = (box - 0.5).tolist()
    out = torch.zeros(feature.shape[0], bins, bins)
    for i in range(bins):
        for j in range(bins):
            y = min(max(top + (i + 0.5) * (bottom - top) / bins, 0), feature.shape[1] - 1)
            x = min(max(left + (j + 0.5) * (right - left) / bins, 0), feature.shape[2] - 1)
            y0, x0 = min(int(y), feature.shape[1] - 2), min(int(x), feature.shape[2] - 2)
            fy, fx = y - y0, x - x0
            for row, column, weight in (
                (y0, x0, (1 - fy) * (1 - fx)),
                (y0, x0 + 1, (1 - fy) * fx),
                (y0 + 1, x0, fy * (1 - fx)),
                (y0 + 1, x0 + 1, fy * fx),
            ):
                out[:, i, j] += weight * feature[:, row, column]
    return out


def test_regions_are_pooled_from_the_places_in_p2ts_maps_where_they_are() -> None:
    """mmcv pools from a map's memory as if it were contiguous, so that a channels-last one gives other places."""
    torch.manual_seed(0)
    backbone = P2T(PYRAMID, drop_path_rate=0.0)
    neck = FPN(in_channels=list(PYRAMID['embed_dims']), out_channels=7, num_outs=4)
    neck.init_weights()
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(2, 3, 92, 116))
        for feature in (maps[0], neck(maps)[0]):
            assert feature.shape[-2:] == (23, 29)
            box = torch.tensor([2.3, 3.1, 17.7, 19.4])
            pooled = roi_align(feature, torch.tensor([[1.0, *box.tolist()]]), (3, 3), 1.0, 1, 'avg', True)
            torch.testing.assert_close(pooled[0], plain_roi_align(feature[1], box, 3))


def test_the_demos_overview_shows_labels_above_predictions(mini: Path, tmp_path: Path) -> None:
    data_root = mini / DATA_ROOTS['coco']
    images = sorted((data_root / 'val2017').glob('*.jpg'))
    assert images
    for path in images:
        (tmp_path / 'overlays').mkdir(exist_ok=True)
        Image.new('RGB', (400, 300), (0, 0, 250)).save(tmp_path / 'overlays' / f'{path.stem}.png')
    target = tmp_path / 'overview.png'
    demo = load_demo()
    demo.write_overview(demo.detection_overview(data_root, images, tmp_path), demo.TASKS['det'].rows, target)
    sheet = np.asarray(Image.open(target))
    blue = (sheet == (0, 0, 250)).all(axis=-1)
    half = sheet.shape[0] // 2
    assert blue[half:].mean() > 0.5
    assert not blue[:half].any()
    content = json.loads((data_root / 'annotations' / 'instances_val2017.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    for entry in content['annotations']:
        colour = CocoDataset.METAINFO['palette'][CocoDataset.METAINFO['classes'].index(names[entry['category_id']])]
        assert (np.abs(sheet[:half].astype(int) - colour).max(axis=-1) <= 2).sum() > 200  # behind the name


@pytest.mark.parametrize(('task', 'option'), [('seg', '--epochs'), ('det', '--iterations')])
def test_the_demo_refuses_a_length_that_its_config_does_not_have(
    task: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_demo().parse_arguments(['--task', task, option, '3'])
    assert f'{option} is not for --task {task}' in capsys.readouterr().err


def test_the_demo_keeps_the_folders_of_an_earlier_run(tmp_path: Path) -> None:
    for content in ('first', 'second'):
        (tmp_path / 'pictures').mkdir()
        (tmp_path / 'pictures' / 'holiday.jpg').write_text(content)
        load_demo().set_aside(tmp_path / 'pictures')
    assert not (tmp_path / 'pictures').exists()
    assert (tmp_path / 'pictures.1' / 'holiday.jpg').read_text() == 'first'
    assert (tmp_path / 'pictures.2' / 'holiday.jpg').read_text() == 'second'
    assert 'rmtree' not in DEMO.read_text()


def test_the_demos_configs_and_arguments_exist() -> None:
    demo = load_demo()
    for name, task in demo.TASKS.items():
        assert demo.CONFIGS / task.config in CONFIGS
        assert demo.parse_arguments(['--task', name, f'--{task.length[0]}', '3']).length == 3
