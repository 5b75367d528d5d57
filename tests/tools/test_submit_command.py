"""``tools/submit.py``: its archives hold what ``tools/test.py`` scores, and a run that was interrupted goes on."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.submission import check as archive_check
from mmvit_ext.submission import run as submission
from tests.config_tools import CONFIGS, small_config

Run = Callable[..., tuple[int, str]]

SIZE = (90, 120)
NAME = 'detections_val2017_tiny_results'

REMEMBERING = """
default_scope = 'mmdet'
data_root = {root!r}
model = dict(
    type='RememberingDetector',
    data_preprocessor=dict(type='DetDataPreprocessor'),
    mask_head=dict(annotations=data_root + '/annotations/instances_val2017.json'),
    test_cfg=dict(max_per_img=100),
)
test_pipeline = [
    dict(type='mmvit_ext.LoadImageFromFile'),
    dict(type='Resize', scale=(97, 61), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + '/annotations/instances_val2017.json', metric=['bbox', 'segm']
)
"""


@MMDET_MODELS.register_module(force=True)
class RememberingDetector(BaseModel):
    """Knows the labelled objects of every image by its name; moves them, loses some and takes some for others."""

    def __init__(self, mask_head: dict[str, str], test_cfg: dict, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.truth = COCO(mask_head['annotations'])
        self.labels = {number: index for index, number in enumerate(self.truth.getCatIds())}

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        for sample in data_samples:
            rng = np.random.default_rng(number := int(Path(sample.img_path).stem))
            boxes, labels, masks = [], [], []
            for entry in self.truth.loadAnns(self.truth.getAnnIds(number)):
                if rng.random() < 0.2:
                    continue
                left, top, width, height = entry['bbox']
                moved = rng.normal(size=2)
                corners = np.array([left, top, left + width, top + height]) + np.tile(moved, 2)
                boxes.append(np.clip(corners, 0, np.tile(sample.ori_shape[::-1], 2)))
                label = self.labels[entry['category_id']]
                labels.append(label if rng.random() < 0.8 else (label + 1) % len(self.labels))
                masks.append(np.roll(self.truth.annToMask(entry), int(moved[0] * 2), axis=1).astype(bool))
            count = len(boxes)
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor(np.array(boxes), dtype=torch.float32).reshape(count, 4),
                scores=torch.tensor(rng.random(count), dtype=torch.float32),
                labels=torch.tensor(labels, dtype=torch.long),
                masks=torch.tensor(np.array(masks).reshape(count, *sample.ori_shape)),
            )
        return data_samples


@pytest.fixture(scope='module')
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('mini') / 'data'
    make_mini_dataset(root, images=12, size=SIZE, seed=0)
    return root


@pytest.fixture(scope='module')
def coco(mini: Path) -> Path:
    return mini / DATA_ROOTS['coco']


@pytest.fixture
def remembering(coco: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A config and a checkpoint of a detector that needs no time."""
    config = tmp_path / f'remembering_{tmp_path.name}.py'
    config.write_text(REMEMBERING.format(root=str(coco)))
    torch.save({'state_dict': {'weight': torch.zeros(1)}}, tmp_path / 'remembering.pth')
    return config, tmp_path / 'remembering.pth'


def random_model(start: str, mini: Path, tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """A config of the package made small, with all validation images, and random weights."""
    path = next(path for path in CONFIGS if path.stem.startswith(start))
    roots = {'CocoDataset': mini / DATA_ROOTS['coco'], 'ADE20KDataset': mini / DATA_ROOTS['ade20k']}
    cfg = small_config(path, roots, tmp_path / 'run')
    del cfg.test_dataloader.dataset['indices']
    cfg.test_dataloader.batch_size = 1
    if 'tta_pipeline' in cfg:
        del cfg.tta_pipeline[1].transforms[0][2:]  # scales
    cfg.merge_from_dict(changes)
    config = tmp_path / f'{start}{tmp_path.name}.py'
    cfg.dump(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    if cfg.default_scope == 'mmseg' and model.decode_head.num_classes == 150:
        # Classes that do occur, so that there is something to score.
        maps = (roots['ADE20KDataset'] / 'annotations/validation').iterdir()
        labels = np.unique([value for path in maps for value in np.unique(np.asarray(Image.open(path)))])
        with torch.no_grad():
            model.decode_head.conv_seg.bias[labels[labels > 0].astype(int) - 1] += 1000
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'random.pth')
    return config, tmp_path / 'random.pth'


def entries(archive: str | Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        (name,) = opened.namelist()
        assert name == f'{Path(archive).stem}.json'
        return json.loads(opened.read(name))


def ordered(found: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in found)


# COCO


def test_archives_score_what_the_test_command_scores(remembering: tuple[Path, Path], coco: Path, run_tool: Run) -> None:
    annotations = coco / 'annotations' / 'instances_val2017.json'
    code, output = run_tool('test', *remembering, '--out', 'metrics.json')
    assert code == 0, output[-2000:]
    expected = json.loads(Path('metrics.json').read_text())
    code, output = run_tool('submit', 'coco', *remembering, '--images', coco / 'val2017', '--out', f'{NAME}.zip')
    assert code == 0, output[-2000:]
    assert output.count('no faults') == 2
    truth = COCO(annotations)
    for kind in ('bbox', 'segm'):
        archive = f'detections_val2017_tiny-{kind}_results.zip'
        with zipfile.ZipFile(archive) as opened:
            opened.extractall('unpacked')
        evaluation = COCOeval(truth, truth.loadRes(f'unpacked/{Path(archive).stem}.json'), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
        scores = {f'coco/{kind}_{name}': round(score, 3) for name, score in zip(names, evaluation.stats, strict=False)}
        assert scores == {name: expected[name] for name in scores}
        assert 0.1 < scores[f'coco/{kind}_mAP'] < 0.9
    assert not any(Path().glob('*.partial'))


def test_a_real_detectors_archives_hold_the_objects_of_the_test_command(
    mini: Path, coco: Path, run_tool: Run, tmp_path: Path
) -> None:
    files = random_model('mask-rcnn_p2t-mini_', mini, tmp_path)
    code, output = run_tool('test', *files, '--cfg-options', 'test_evaluator.outfile_prefix=expected')
    assert code == 0, output[-2000:]
    annotations = coco / 'annotations' / 'instances_val2017.json'
    arguments = ('--images', coco / 'val2017', '--annotations', annotations, '--out', f'{NAME}.zip')
    code, output = run_tool('submit', 'coco', *files, *arguments)
    assert code == 0, output[-2000:]
    for kind in ('bbox', 'segm'):
        expected = json.loads(Path(f'expected.{kind}.json').read_text())
        assert len(expected) > 10
        if kind == 'segm':
            for entry in expected:
                del entry['bbox']
        assert ordered(entries(f'detections_val2017_tiny-{kind}_results.zip')) == ordered(expected)


def test_one_type_has_the_name_that_was_asked_for(remembering: tuple[Path, Path], coco: Path, run_tool: Run) -> None:
    arguments = ('--images', coco / 'val2017', '--out', f'{NAME}.zip', '--type', 'segm')
    assert run_tool('submit', 'coco', *remembering, *arguments)[0] == 0
    assert [path.name for path in Path().glob('*.zip')] == [f'{NAME}.zip']
    assert all('segmentation' in entry for entry in entries(f'{NAME}.zip'))


def test_only_the_images_of_the_list_are_predicted(
    remembering: tuple[Path, Path], coco: Path, run_tool: Run, tmp_path: Path
) -> None:
    """The folder of COCO's test images holds those of test-dev and as many others, which the server refuses."""
    content = json.loads((coco / 'annotations' / 'instances_val2017.json').read_text())
    images = content['images'][1:3]
    (tmp_path / 'list.json').write_text(json.dumps({'images': images, 'categories': content['categories']}))
    name = 'detections_test-dev2017_tiny_results.zip'
    arguments = ('--images', coco / 'val2017', '--annotations', 'list.json', '--out', name, '--type', 'bbox')
    code, output = run_tool('submit', 'coco', *remembering, *arguments)
    assert code == 0, output[-2000:]
    found = {entry['image_id'] for entry in entries(name)}
    assert found
    assert found <= {image['id'] for image in images}


def test_a_detector_is_tested_at_several_scales_as_its_config_says(
    mini: Path, coco: Path, run_tool: Run, tmp_path: Path
) -> None:
    views = [
        [dict(type='Resize', scale=scale, keep_ratio=True) for scale in ((96, 64), (64, 48))],
        [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
        [dict(type='LoadAnnotations', with_bbox=True)],
        [
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
            )
        ],
    ]
    files = random_model(
        'retinanet_p2t-mini_',
        mini,
        tmp_path,
        tta_model=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
        tta_pipeline=[dict(type='mmvit_ext.LoadImageFromFile'), dict(type='TestTimeAug', transforms=views)],
    )
    code, output = run_tool('test', *files, '--tta', '--cfg-options', 'test_evaluator.outfile_prefix=expected')
    assert code == 0, output[-2000:]
    arguments = ('--images', coco / 'val2017', '--out', f'{NAME}.zip')
    changed = ('--cfg-options', 'tta_model.tta_cfg.max_per_img=101')
    code, output = run_tool('submit', 'coco', *files, *arguments, '--tta', *changed)
    assert code == 2
    assert '--cfg-options tta_model.tta_cfg.max_per_img=100' in output
    code, output = run_tool('submit', 'coco', *files, *arguments, '--tta')
    assert code == 0, output[-2000:]
    found = entries(f'{NAME}.zip')
    assert ordered(found) == ordered(json.loads(Path('expected.bbox.json').read_text()))
    single = f'{NAME.replace("tiny", "single")}.zip'
    assert run_tool('submit', 'coco', *files, '--images', coco / 'val2017', '--out', single)[0] == 0
    assert ordered(found) != ordered(entries(single))


# ADE20K


def iou_by_hand(folder: Path, annotations: Path) -> float:
    """Mean over the classes that occur, in per cent; labels from 1, unlabelled pixels left out."""
    joint, found, true = np.zeros(151), np.zeros(151), np.zeros(151)
    for path in annotations.iterdir():
        truth, labels = np.asarray(Image.open(path)), np.asarray(Image.open(folder / path.name))
        for label in range(1, 151):
            joint[label] += ((labels == label) & (truth == label)).sum()
            found[label] += ((labels == label) & (truth > 0)).sum()
            true[label] += (truth == label).sum()
    union = found + true - joint
    return 100 * float((joint[union > 0] / union[union > 0]).mean())


@pytest.mark.parametrize('tta', [False, True], ids=['one scale', 'several scales'])
def test_label_maps_are_those_that_the_test_command_scores(
    tta: bool, mini: Path, run_tool: Run, tmp_path: Path
) -> None:
    files = random_model('sem-fpn_p2t-mini_', mini, tmp_path)
    root = mini / DATA_ROOTS['ade20k']
    options = ['--tta'] * tta
    code, output = run_tool('test', *files, '--out', 'maps', *options)
    assert code == 0, output[-2000:]
    expected = float(re.findall(r'mIoU: (\S+)', output)[-1])
    arguments = ('--images', root / 'images/validation', '--out', 'ade.zip')
    code, output = run_tool('submit', 'ade20k', *files, *arguments, *options)
    assert code == 0, output[-2000:]
    assert 'no faults' in output
    with zipfile.ZipFile('ade.zip') as opened:
        opened.extractall('unpacked')
    names = sorted(path.name for path in Path('unpacked').iterdir())
    assert names == sorted(path.with_suffix('.png').name for path in (root / 'images/validation').iterdir())
    for name in names:
        assert np.array_equal(Image.open(f'unpacked/{name}'), Image.open(f'maps/{name}')), name
    measured = iou_by_hand(Path('unpacked'), root / 'annotations/validation')
    assert measured > 1
    assert measured == pytest.approx(expected, abs=0.006)


# Going on, and what is refused


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are predicted."""
    names: list[str] = []
    call = Predictor.__call__

    def predict(self: Predictor, path: str | Path) -> Any:
        names.append(Path(path).stem)
        return call(self, path)

    monkeypatch.setattr(Predictor, '__call__', predict)
    return names


def test_an_interrupted_run_goes_on_where_it_was(
    remembering: tuple[Path, Path],
    coco: Path,
    run_tool: Run,
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = sorted(path.stem for path in (coco / 'val2017').iterdir())
    arguments = ('coco', *remembering, '--images', coco / 'val2017', '--type', 'bbox', '--out')
    assert run_tool('submit', *arguments, 'detections_val2017_whole_results.zip')[0] == 0
    assert counted == images
    counted.clear()
    predict = Predictor.__call__

    def stop(self: Predictor, path: str | Path) -> Any:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return predict(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, '__call__', stop)
        code, output = run_tool('submit', *arguments, f'{NAME}.zip')
    assert code == 130
    assert 'run the same command again' in output
    assert not Path(f'{NAME}.zip').exists()
    assert run_tool('submit', *arguments, f'{NAME}.zip')[0] == 0
    assert counted == images
    assert entries(f'{NAME}.zip') == entries('detections_val2017_whole_results.zip')


def test_a_bad_image_keeps_the_archive_from_being_written_and_the_others_finished(
    remembering: tuple[Path, Path], coco: Path, run_tool: Run, counted: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    for path in (coco / 'val2017').iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    bad = sorted(folder.iterdir())[1]
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    arguments = ('coco', *remembering, '--images', folder, '--out', f'{NAME}.zip', '--type', 'bbox')
    code, output = run_tool('submit', *arguments)
    assert code == 2
    assert f'{bad}: ' in output
    assert not Path(f'{NAME}.zip').exists()
    bad.write_bytes(content)
    counted.clear()
    assert run_tool('submit', *arguments)[0] == 0
    assert counted == [bad.stem]


def test_finished_images_of_another_checkpoint_are_not_mixed_in(
    remembering: tuple[Path, Path], coco: Path, run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = remembering
    arguments = ('--images', coco / 'val2017', '--out', f'{NAME}.zip', '--type', 'bbox')
    predict, stopped_at = Predictor.__call__, min(coco.glob('val2017/*')).stem

    def stop(self: Predictor, path: str | Path) -> Any:
        if Path(path).stem == stopped_at:
            raise KeyboardInterrupt
        return predict(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, '__call__', stop)
        assert run_tool('submit', 'coco', config, checkpoint, *arguments)[0] == 130
        torch.save({'state_dict': {'weight': torch.ones(1)}}, checkpoint)
        # Nothing is finished yet, so there is nothing to mix.
        stopped_at = max(coco.glob('val2017/*')).stem
        assert run_tool('submit', 'coco', config, checkpoint, *arguments)[0] == 130
    torch.save({'state_dict': {'weight': torch.zeros(1)}}, checkpoint)
    code, output = run_tool('submit', 'coco', config, checkpoint, *arguments)
    assert code == 2
    assert 'finished with another checkpoint: ' in output
    assert f'{NAME}.zip.partial' in output
    code, output = run_tool(
        'submit', 'coco', config, checkpoint, *arguments, '--cfg-options', 'test_pipeline.1.scale=9,7'
    )
    assert code == 2
    assert 'finished with another checkpoint, config: ' in output


def test_a_run_that_was_stopped_between_its_two_archives_writes_both(
    remembering: tuple[Path, Path], coco: Path, run_tool: Run, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = submission.write_archive

    def stop(archive: Path, members: Any) -> None:
        if '-segm' in archive.name:
            raise KeyboardInterrupt
        write(archive, members)

    arguments = ('coco', *remembering, '--images', coco / 'val2017', '--out', f'{NAME}.zip')
    with monkeypatch.context() as patch:
        patch.setattr(submission, 'write_archive', stop)
        assert run_tool('submit', *arguments)[0] == 130
    assert len(list(Path().glob('*.zip'))) == 1
    counted.clear()
    code, output = run_tool('submit', *arguments)
    assert code == 0, output[-2000:]
    assert not counted
    assert len(list(Path().glob('*.zip'))) == 2


# Arguments in place of the usual ones, and words of the message.
REFUSED: dict[str, tuple[list[str], str]] = {
    'a name that the server does not take': (['--out', 'results.zip'], 'detections_SPLIT_NAME_results.zip'),
    'no zip': (['--out', 'detections_val2017_a_results.json'], 'ends in .zip'),
    'test-dev without its list': (
        ['--out', 'detections_test-dev2017_a_results.zip'],
        'test-dev2017 has 20288 images',
    ),
    'masks at several scales': (['--tta'], 'merges boxes only'),
    'no folder': (['--images', 'absent'], '--images absent is no folder'),
    'no such list': (['--annotations', 'absent.json'], '--annotations absent.json cannot be opened'),
    'more objects than count': (['--cfg-options', 'model.test_cfg.max_per_img=300'], 'model.test_cfg.max_per_img=100'),
    'images that are not there': (['--annotations', 'list.json'], 'lacks 1 of the 1 images of list.json'),
    'images without an id': (['--images', 'named'], 'expected twelve digits'),
    'other scope': (['--cfg-options', 'default_scope=mmseg'], 'COCO detection needs a config of mmdet'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_the_server_would_refuse_is_refused_before_anything_is_predicted(
    case: str, remembering: tuple[Path, Path], coco: Path, run_tool: Run, counted: list[str]
) -> None:
    options, message = REFUSED[case]
    Path('list.json').write_text(
        json.dumps({'images': [{'id': 1, 'file_name': 'absent.jpg', 'height': 3, 'width': 5}], 'categories': []})
    )
    Path('named').mkdir()
    Image.new('RGB', (5, 3)).save('named/holiday.jpg')
    arguments = ['coco', *remembering, '--images', coco / 'val2017', '--out', f'{NAME}.zip', *options]
    code, output = run_tool('submit', *arguments)
    assert code == 2, output[-2000:]
    assert message in output
    assert 'Traceback' not in output
    assert not counted


def test_masks_of_a_model_without_masks_are_refused(mini: Path, coco: Path, run_tool: Run, tmp_path: Path) -> None:
    files = random_model('retinanet_p2t-mini_', mini, tmp_path)
    arguments = ('--images', coco / 'val2017', '--out', f'{NAME}.zip', '--type', 'segm')
    code, output = run_tool('submit', 'coco', *files, *arguments)
    assert code == 2
    assert 'has no mask head' in output
    code, output = run_tool('submit', 'coco', *files, *arguments[:4], '--tta')
    assert code == 2
    assert 'has no tta_model and no tta_pipeline' in output


def test_an_archive_is_not_overwritten(remembering: tuple[Path, Path], coco: Path, run_tool: Run) -> None:
    Path(f'{NAME}.zip').write_text('precious')
    arguments = ('--images', coco / 'val2017', '--out', f'{NAME}.zip', '--type', 'bbox')
    code, output = run_tool('submit', 'coco', *remembering, *arguments)
    assert code == 2
    assert 'exists already' in output
    assert Path(f'{NAME}.zip').read_text() == 'precious'


def test_a_segmentor_of_other_classes_is_refused(mini: Path, run_tool: Run, tmp_path: Path) -> None:
    files = random_model('sem-fpn_p2t-mini_', mini, tmp_path, **{'model.decode_head.num_classes': 3})
    arguments = ('--images', mini / DATA_ROOTS['ade20k'] / 'images/validation', '--out', 'ade.zip')
    code, output = run_tool('submit', 'ade20k', *files, *arguments)
    assert code == 2
    assert 'has 3 classes, the benchmark has 150' in output
    changed = ('--cfg-options', 'test_dataloader.dataset.reduce_zero_label=False')
    code, output = run_tool('submit', 'ade20k', *files, *arguments, *changed)
    assert code == 2
    assert 'counts its classes from another label' in output


def test_the_check_lists_faults_and_ends_with_a_code(coco: Path, run_tool: Run) -> None:
    number = min(int(path.stem) for path in (coco / 'val2017').iterdir())
    entry = {'image_id': number, 'category_id': 1, 'bbox': [0, 0, 5, 5], 'score': 0.5}
    for name, content in (('good', [entry]), ('bad', [{**entry, 'score': 2 + index} for index in range(7)])):
        stem = f'detections_val2017_{name}_results'
        with zipfile.ZipFile(f'{stem}.zip', 'w') as archive:
            archive.writestr(f'{stem}.json', json.dumps(content))
    known = ('--images', coco / 'val2017')
    code, output = run_tool('submit', 'check', 'detections_val2017_good_results.zip', *known)
    assert code == 0
    assert 'no faults' in output
    code, output = run_tool('submit', 'check', 'detections_val2017_bad_results.zip', *known)
    assert code == 2
    assert 'score: 2 more' in output
    code, output = run_tool('submit', 'check', 'detections_val2017_bad_results.zip', *known, '--all')
    assert code == 2
    assert output.count('expected 0 to 1') == 7


@pytest.mark.parametrize(
    ('limits', 'fault'),
    [
        ({'MAX_FILE': 10}, r'ADE_test_00000001\.png: it cannot be decoded: it has \d+ bytes, expected at most 10'),
        ({'MAX_FAULTS': 3}, r'it cannot be read: the entries from 4 on are too many to count or to be checked'),
        ({'MAX_OBJECTS': 2, 'TEST_DEV_IMAGES': 3}, r'it cannot be read: the entries from 6 on are too many to count'),
    ],
)
def test_the_check_stops_where_an_archive_is_too_large(
    limits: dict[str, int], fault: str, run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(archive_check if hasattr(archive_check, name) else submission, name, value)
    archive = 'labels.zip' if 'MAX_FILE' in limits else f'{NAME}.zip'
    with zipfile.ZipFile(archive, 'w') as written:
        if 'MAX_FILE' in limits:
            Image.new('L', (5, 3), 1).save('map.png')
            written.write('map.png', 'ADE_test_00000001.png')
        else:
            score = 0.5 if 'MAX_OBJECTS' in limits else 7
            entry = {'image_id': 1, 'category_id': 1, 'score': score}
            entries = [{**entry, 'bbox': [number, 0, 5, 5]} for number in range(20)]
            written.writestr(f'{NAME}.json', json.dumps(entries))
    code, output = run_tool('submit', 'check', archive, '--all')
    assert code == 2
    assert re.search(fault, output), output
