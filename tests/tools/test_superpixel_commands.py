"""``tools/explain.py superpixels``, ``superpixel_quality.py`` and ``robustness.py``: files, figures, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

pytest.importorskip('mmseg')

from mmvit_ext.datasets.distortions import PasteOccluder
from mmvit_ext.evaluation import robustness
from mmvit_ext.evaluation.robustness import Curve, curves_table, occluder_overlap
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.inputs import OpenedImage
from mmvit_ext.interpret.superpixels import superpixels_of
from mmvit_ext.models.backbones.spformer import SPFormer

Run = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[2]
QUALITY = sorted((ROOT / 'configs' / 'spformer').glob('superpixel-quality_*.py'))
ARCH = dict(embed_dims=12, depths=(1, 1), num_heads=3, sca_heads=2)
MODEL = f"""
model.update(
    backbone=dict(type='mmvit_ext.SPFormer', arch={ARCH!r}, img_size=32, pixel_stride=4, cell_size=2,
                  out_association=True),
    decode_head=dict(type='mmvit_ext.SuperpixelHead', in_channels=12, num_classes=3, cell_size=2),
)
"""
EXTRACTOR = """
backbone = dict(model['backbone'])
model = dict(type='mmvit_ext.SuperpixelExtractor', backbone=backbone, data_preprocessor=model['data_preprocessor'])
test_evaluator = [
    dict(type='mmvit_ext.SuperpixelQuality'),
    dict(type='mmvit_ext.SuperpixelQuality', regions='patches', patch_size=8),
    dict(type='mmvit_ext.SuperpixelQuality', regions='slic', patch_size=8),
]
"""


def save_weights(config: Path | str, checkpoint: Path) -> Path:
    """Weights with which an untrained model has superpixels of its own and predicts several classes."""
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.empty_like(value).normal_(generator=generator) * 0.3 + (name.endswith('running_var') * 1.0)
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }
    state = {name: value.abs() if name.endswith('running_var') else value for name, value in state.items()}
    torch.save({'state_dict': state}, checkpoint)
    return checkpoint


@pytest.fixture
def segmentor(make_config: Callable[..., str], tmp_path: Path) -> tuple[str, str]:
    config = make_config(MODEL)
    return config, str(save_weights(config, tmp_path / 'weights.pth'))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / 'photos'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((53, 41), Image.Resampling.BICUBIC)
    image.save(folder / 'a.png')
    image.save(folder / 'a.bmp')
    image.rotate(90, expand=True).save(folder / 'b.png')
    return folder


# explain superpixels


def test_pictures_and_arrays_of_every_step_and_head_are_written(
    segmentor: tuple[str, str], photos: Path, run_tool: Run
) -> None:
    (photos / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
    code, output = run_tool('explain', 'superpixels', *segmentor, photos, '--out', 'out', '--size', '64')
    assert code == 2
    assert '3 images explained' in output
    assert f'{photos / "cut.jpg"}: ' in output
    names = {'a_png', 'a_bmp', 'b'}
    files = {path.name for path in Path('out/superpixels').glob('*.*')}
    assert files == {f'{name}.{kind}' for name in names for kind in ('png', 'npy', 'json')}
    expected = {
        f'sca{m}-iteration{i}-{head}_{kind}.png'
        for m in (1, 2)
        for i in (1, 2)
        for head in ('head1', 'head2', 'merged')
        for kind in ('boundaries', 'labels')
    }
    for name in names:
        assert {path.name for path in Path('out/superpixels', name).iterdir()} == expected
    array = np.load('out/superpixels/b.npy')
    predictor = Predictor(Config.fromfile(segmentor[0]), segmentor[1], torch.device('cpu'))
    assert array.shape == (2, 2, 3, 53, 41)
    assert np.array_equal(array, superpixels_of(OpenedImage(predictor, photos / 'b.png'), 'config').labels())
    assert len(np.unique(array[1, 1, 2])) > 10
    facts = json.loads(Path('out/superpixels/b.json').read_text())
    assert facts['superpixels that have pixels'][3]['merged'] == len(np.unique(array[1, 1, 2]))
    picture = Image.open('out/superpixels/b/sca1-iteration1-head1_boundaries.png')
    assert picture.size == (41 * 10, 53 * 10)  # enlarged to at least 480 pixels


def test_montages_alone_can_be_asked_for(segmentor: tuple[str, str], photos: Path, run_tool: Run) -> None:
    code, _ = run_tool('explain', 'superpixels', *segmentor, photos / 'b.png', '--out', 'out', '--montage-only')
    assert code == 0
    assert {path.name for path in Path('out').rglob('*.*')} == {'b.png', 'b.json', 'superpixels.html'}


# superpixel_quality


def test_the_table_has_the_figures_of_the_test_command(
    segmentor: tuple[str, str], make_config: Callable[..., str], run_tool: Run
) -> None:
    """A segmentor's own config and one with an extractor and its metrics measure the same."""
    code, output = run_tool('superpixel_quality', *segmentor, '--out', 'quality.json')
    assert code == 0, output
    rows = json.loads(Path('quality.json').read_text())
    assert [row['regions'] for row in rows] == [
        'superpixels, mean of 2 heads',
        'superpixels, head 1',
        'superpixels, head 2',
        'superpixels, heads merged',
        'patches 8x8',
        'SLIC',
    ]
    for row in rows:
        assert f'| {row["regions"]} | {row["best mIoU"]:.2f} | {row["regions per image"]:.1f} |' in output
    config = make_config(MODEL, EXTRACTOR, name='extractor')
    assert run_tool('test', config, segmentor[1], '--out', 'metrics.json')[0] == 0
    metrics = json.loads(Path('metrics.json').read_text())
    names = ['mIoU', 'mIoU_head1', 'mIoU_head2', 'mIoU_merged']
    keys = [*(f'superpixels/{name}' for name in names), 'patches/mIoU', 'slic/mIoU']
    assert [row['best mIoU'] for row in rows] == pytest.approx([metrics[key] for key in keys])
    assert rows[0]['regions per image'] == metrics['superpixels/regions'] == 5 * 6
    # The same from the extractor's config, whose metrics stay as they are; of one image, another figure.
    assert run_tool('superpixel_quality', config, segmentor[1], '--out', 'other.json')[0] == 0
    assert json.loads(Path('other.json').read_text()) == rows
    assert run_tool('superpixel_quality', config, segmentor[1], '--out', 'one.json', '--images', '1')[0] == 0
    assert json.loads(Path('one.json').read_text()) != rows


def write_layout(root: Path, config: Config) -> None:
    """Two images and their label maps where the config of a dataset looks for them."""
    dataset = config.test_dataloader.dataset
    step = next(step for step in dataset.pipeline if step['type'] == 'mmvit_ext.LoadSegAnnotations')
    generator = np.random.default_rng(0)
    for name in ('2007_000001', '2007_000002'):
        labels = generator.integers(0, step['num_classes'], (3, 4), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
        labels[:, 0] = 255
        for kind, suffix, pixels in (
            ('img_path', '.jpg', labels[..., None].repeat(3, 2)),
            ('seg_map_path', '.png', labels),
        ):
            folder = root / dataset.data_prefix[kind]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f'{name}{suffix}')
    if dataset.get('ann_file'):
        (root / dataset.ann_file).parent.mkdir(parents=True)
        (root / dataset.ann_file).write_text('2007_000001\n2007_000002\n')


@pytest.mark.parametrize('path', QUALITY, ids=lambda path: path.stem)
def test_a_quality_config_measures_the_checkpoint_of_a_classifier(path: Path, tmp_path: Path, run_tool: Run) -> None:
    config = Config.fromfile(path)
    write_layout(tmp_path / 'data', config)
    small = dict(embed_dims=12, num_heads=3, depths=(2, 1))
    backbone = {name: value for name, value in config.model.backbone.items() if name not in ('type', 'out_indices')}
    classifier = nn.Module()
    classifier.backbone = SPFormer(**{**backbone, **small}, out_type='avg_featmap')
    classifier.head = nn.Linear(12, 10)
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'epoch_300.pth')
    options = [f'model.backbone.{name}={value}'.replace(' ', '') for name, value in small.items()]
    options += [f'data_root={tmp_path / "data"}', 'test_dataloader.num_workers=0']
    code, output = run_tool('superpixel_quality', path, tmp_path / 'epoch_300.pth', '--cfg-options', *options)
    assert code == 0, output
    for row in ('superpixels, mean of 2 heads', 'patches 16x16', 'SLIC'):
        assert f'| {row} |' in output


def test_quality_configs_fit_the_models_whose_checkpoints_they_name() -> None:
    """Backbones with the same parameters; the paper's datasets and the mini one."""
    assert len(QUALITY) == 3
    for path in QUALITY:
        text = path.read_text()
        assert str(path.relative_to(ROOT)) in text
        (other,) = {word.rstrip('.') for word in text.split() if word.startswith('configs/spformer/')} - {
            str(path.relative_to(ROOT))
        }
        shapes = []
        for file in (path, ROOT / other):
            backbone = Config.fromfile(file).model.backbone
            with torch.device('meta'):
                model = SPFormer(**{k: v for k, v in backbone.items() if k not in ('type', 'init_cfg')})
            shapes.append({k: v.shape for k, v in model.state_dict().items() if not k.startswith('norm.')})
        assert shapes[0] == shapes[1]


# robustness


def test_no_rotation_is_the_figure_of_the_test_command(
    segmentor: tuple[str, str], run_tool: Run, make_config: Callable[..., str]
) -> None:
    code, output = run_tool(
        'robustness', 'rotation', *segmentor, '--angles', '0', '45', '--out', 'out', '--pictures', '2'
    )
    assert code == 0, output
    (curve,) = json.loads(Path('out/rotation.json').read_text())
    assert run_tool('test', *segmentor, '--out', 'metrics.json')[0] == 0
    measured = json.loads(Path('metrics.json').read_text())['mIoU']
    assert curve['metric'] == 'mIoU'
    assert curve['x'] == [0, 45]
    assert curve['y'][0] == pytest.approx(measured)
    assert curve['y'][1] != curve['y'][0]
    assert f'| mIoU | {curve["y"][0]:.2f} | {curve["y"][1]:.2f} |' in output
    name = Path(segmentor[0]).stem
    assert {path.name for path in Path('out').iterdir()} == {'rotation.json', 'rotation.png', f'rotation_{name}.png'}
    assert Image.open('out/rotation.png').size == (840, 540)
    # Two rows of two pictures, each enlarged to 480 pixels.
    width, height = Image.open(f'out/rotation_{name}.png').size
    assert width > 2 * 480
    assert height > 2 * 400


def test_occluders_are_told_from_the_image_by_superpixels_and_patches(
    segmentor: tuple[str, str], trained: Path, run_tool: Run, recwarn: pytest.WarningsRecorder
) -> None:
    other = (f'ViT={trained / "config.py"}', str(trained / 'work_dir' / 'iter_2.pth'))
    code, output = run_tool(
        'robustness', 'occlusion', f'SP={segmentor[0]}', segmentor[1], '--compare', *other, '--areas', '0', '0.3',
        '--out', 'out', '--pictures', '0', '--images', '2'
    )  # fmt: skip
    assert code == 0, output
    assert not [warning for warning in recwarn if 'logger' in str(warning.message).lower()]
    first, second = json.loads(Path('out/occlusion.json').read_text())
    assert (first['model'], second['model']) == ('SP', 'ViT')
    assert {path.name for path in Path('out').iterdir()} == {'occlusion.json', 'occlusion.png'}
    assert 'occluder IoU of superpixels' not in first['everything'][0]  # nothing is covered
    assert not [name for name in second['everything'][1] if name.startswith('occluder')]
    found = first['everything'][1]
    cfg = Config.fromfile(segmentor[0])
    predictor = Predictor(cfg, segmentor[1], torch.device('cpu'))
    both = either = 0
    for index in (0, 2):  # of three
        path = f'image_{index}.png'
        covered = PasteOccluder(0.3).mask(path, (40, 48))
        # Patches of 8 pixels: each is taken whole where more than half of it is covered.
        whole = covered.reshape(5, 8, 6, 8).mean((1, 3)) > 0.5
        taken = whole.repeat(8, 0).repeat(8, 1)
        both, either = both + (taken & covered).sum(), either + (taken | covered).sum()
    assert found['occluder IoU of patches'] == pytest.approx(100 * both / either)
    assert 0 < found['occluder IoU of superpixels'] <= 100
    superpixels = superpixels_of(OpenedImage(predictor, Path(cfg.data_root) / 'images' / 'image_0.png'), 'config')
    assert occluder_overlap(superpixels, np.ones((40, 48), bool)).tolist() == [1920, 1920]
    assert f'| SP | occluder IoU of patches |  | {found["occluder IoU of patches"]:.2f} |' in output


CLASSIFIER = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=40, edge='short'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs'),
]
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageNet', data_root={root!r}, split='', metainfo=dict(classes=('a', 'b')), pipeline=test_pipeline
    ),
)
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmvit_ext.SPFormer', arch={arch!r}, img_size=32, out_type='avg_featmap'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=12, topk=(1,)),
)
"""


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[str, str]:
    pytest.importorskip('mmpretrain')
    for number, name in enumerate('ab'):
        folder = tmp_path / 'classes' / name
        folder.mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(2 * number + index).integers(0, 255, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((50, 40)).save(folder / f'{index}.JPEG')
    config = tmp_path / f'classifier_{tmp_path.name}.py'
    config.write_text(CLASSIFIER.format(root=str(tmp_path / 'classes'), arch=ARCH))
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'classifier.pth')
    return str(config), str(tmp_path / 'classifier.pth')


def test_classifiers_are_measured_and_shown_too(classifier: tuple[str, str], tmp_path: Path, run_tool: Run) -> None:
    code, output = run_tool(
        'robustness', 'occlusion', *classifier, '--areas', '0', '0.4', '--out', 'out', '--pictures', '1'
    )
    assert code == 0, output
    (curve,) = json.loads(Path('out/occlusion.json').read_text())
    assert curve['metric'] == 'accuracy/top1'
    assert all(value in (0, 25, 50, 75, 100) for value in curve['y'])
    assert 'occluder IoU of superpixels' in curve['everything'][1]
    image = tmp_path / 'classes' / 'a' / '0.JPEG'
    assert run_tool('explain', 'superpixels', *classifier, image, '--out', 'shown')[0] == 0
    assert np.load('shown/superpixels/0.npy').shape == (2, 2, 3, 32, 32)  # what the middle crop leaves


# Refusals


REFUSED: dict[str, tuple[str, list[str], list[str]]] = {
    'superpixels, size': ('superpixels', ['photos', '--out', 'out', '--size', '8'], ['--size', '8']),
    'superpixels, no image': ('superpixels', ['absent.png', '--out', 'out'], ['absent.png']),
    'quality, images': ('superpixel_quality', ['--images', '0'], ['--images must be at least 1, got 0']),
    'quality, out': ('superpixel_quality', ['--out', 'x.txt'], ['x.txt', '.json']),
    'angle': ('rotation', ['--angles', '400', '--out', 'out'], ['--angles must be -360 to 360', 'got 400']),
    'area': ('occlusion', ['--areas', '0.1', '0.9', '--out', 'out'], ['--areas must be 0 to 0.75', 'got 0.9']),
    'pictures': ('rotation', ['--pictures', '-1', '--out', 'out'], ['--pictures must be at least 0']),
    'out': ('rotation', ['--out', 'taken'], ['--out taken is a file']),
}


@pytest.mark.parametrize('case', REFUSED)
def test_bad_arguments_end_in_one_sentence(
    case: str, segmentor: tuple[str, str], photos: Path, tmp_path: Path, run_tool: Run
) -> None:
    (tmp_path / 'taken').write_text('')
    tool, arguments, expected = REFUSED[case]
    owners = {'rotation': ['robustness'], 'occlusion': ['robustness'], 'superpixels': ['explain']}
    first = [*owners.get(tool, []), tool]
    refused(run_tool(*first, *segmentor, *arguments), *expected)


def refused(outcome: tuple[int, str], *expected: str) -> None:
    code, output = outcome
    assert code == 2, output
    assert 'Traceback' not in output
    for part in expected:
        assert part in output
    assert not Path('out').exists()


def test_models_without_superpixels_are_refused_by_what_shows_them(trained: Path, photos: Path, run_tool: Run) -> None:
    files: list[Any] = [trained / 'config.py', trained / 'work_dir' / 'iter_2.pth']
    refused(run_tool('explain', 'superpixels', *files, photos, '--out', 'out'), 'VisionTransformer', 'configs/spformer')
    refused(run_tool('superpixel_quality', *files), 'VisionTransformer', 'no superpixels to measure')


def test_a_classifier_needs_label_maps_to_be_measured_on(classifier: tuple[str, str], run_tool: Run) -> None:
    refused(run_tool('superpixel_quality', *classifier), 'mmpretrain', 'superpixel-quality_')


def test_label_maps_of_another_dataset_are_refused(
    make_config: Callable[..., str], data_root: Path, tmp_path: Path, run_tool: Run
) -> None:
    config = make_config(MODEL, EXTRACTOR, 'test_pipeline[2].pop("num_classes")')
    weights = save_weights(config, tmp_path / 'weights.pth')
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(data_root / 'labels' / 'image_1.png')
    message = 'image_1.png has values outside the 3 classes: 7 (1920 px); expected 0 to 2 or 255'
    refused(run_tool('superpixel_quality', config, weights), message)


def test_detectors_are_refused_because_boxes_are_not_turned(
    make_config: Callable[..., str], segmentor: tuple[str, str], run_tool: Run
) -> None:
    config = make_config(MODEL, "default_scope = 'mmdet'", name='detector')
    refused(run_tool('robustness', 'rotation', config, segmentor[1], '--out', 'out'), 'scope mmdet', 'boxes')


def test_models_of_one_name_and_unknown_metrics_are_refused(
    segmentor: tuple[str, str], run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ['robustness', 'rotation', *segmentor, '--out', 'out', '--angles', '0']
    refused(run_tool(*first, '--compare', *segmentor), 'two of the models are called', 'NAME=CONFIG')
    measured: list[str] = []
    monkeypatch.setattr(
        robustness, 'evaluate', lambda *_, title, **__: measured.append(title) or {'aAcc': 50.0, 'mIoU': 40.0}
    )
    outcome = run_tool(*first, '45', '90', '--metric', 'accuracy', '--images', '1')
    refused(outcome, '--metric accuracy is none of', 'aAcc, mIoU')
    assert [title.rpartition(', ')[2] for title in measured] == ['angle 0']


def test_a_row_of_the_table_is_there_whichever_values_have_it() -> None:
    entries = ({'mIoU': 1.0, 'occluder IoU of patches': 70.0}, {'mIoU': 2.0})
    table = curves_table([Curve('a', 'mIoU', (0.3, 0.0), (1.0, 2.0), entries)])
    assert '| a | occluder IoU of patches | 70.00 |  |' in table
