"""The mini dataset: exact, repeatable, readable by the real dataset classes, and never in the way of other files."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.cli.main import run_verb
from mmvit_ext.datasets.mini import (
    DATA_ROOTS,
    MINI_CLASSES,
    MiniDatasetError,
    catalog,
    make_mini_dataset,
    shapes,
    writer,
)
from mmvit_ext.datasets.mini.masks import bounding_box, encode_mask, outline_rings, run_lengths
from mmvit_ext.datasets.mini.scene import OTHER, draw_portrait, draw_scene
from mmvit_ext.datasets.mini.shapes import Part, coverage, place
from mmvit_ext.datasets.mini.writer import MARKER

ADE = DATA_ROOTS['ade20k']
SMALL = {'images': 4, 'size': (64, 88), 'seed': 3}
SPLITS = {'train': 'training', 'val': 'validation'}


@pytest.fixture(scope='module')
def photos():
    return catalog.load_photos()


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return make_mini_dataset(tmp_path_factory.mktemp('mini') / 'data', images=24, size=(100, 131), seed=0)


@pytest.fixture(scope='module')
def scenes(photos):
    return [draw_scene(photos, i, (150, 200), np.random.default_rng([7, i])) for i in range(12)]


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def label_maps(dataset, split):
    return [read(path) for path in sorted((dataset / ADE / 'annotations' / SPLITS[split]).iterdir())]


# Repeatable ------------------------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes_and_another_seed_other_pictures(tmp_path):
    first = digests(make_mini_dataset(tmp_path / 'a', **SMALL))
    assert digests(make_mini_dataset(tmp_path / 'b', **SMALL)) == first
    other = digests(make_mini_dataset(tmp_path / 'c', **{**SMALL, 'seed': 4}))
    assert other.keys() == first.keys()
    pictures = [name for name in first if name.endswith(('.jpg', '.JPEG'))]
    assert len(pictures) == 5 * 8
    assert not any(other[name] == first[name] for name in pictures)


def test_pictures_do_not_change_when_there_are_more_of_them(tmp_path):
    few = digests(make_mini_dataset(tmp_path / 'few', **SMALL))
    many = digests(make_mini_dataset(tmp_path / 'many', **{**SMALL, 'images': 7}))
    pictures = [name for name in few if name.endswith(('.jpg', '.JPEG', '.png'))]
    assert len(pictures) == 5 * 8 + 4 * 8
    assert all(many[name] == few[name] for name in pictures)


# Exact -----------------------------------------------------------------------------------------------------------


def in_polygon(points, x, y):
    """Even-odd rule by ray casting; the slow plain reference of the drawing."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def rasterise(outline, height, width):
    x, y = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    for adds, points in outline:
        area = in_polygon(points, x, y)
        inside = inside | area if adds else inside & ~area
    return inside


def test_labels_are_the_outlines_drawn_over_one_another(scenes):
    wrong = total = 0
    for scene in scenes:
        height, width = scene.labels.shape
        expected = np.full((height, width), 255)
        for index, outline in scene.layers:
            expected[rasterise(outline, height, width)] = index
        # The middle of a pixel and most of its area may disagree along a border, but nowhere else.
        padded = np.pad(expected, 1, mode='edge')
        near = [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]
        away_from_borders = np.ptp(near, axis=0) == 0
        assert (scene.labels == expected)[away_from_borders].all()
        wrong += (scene.labels != expected).sum()
        total += expected.size
    assert wrong < 0.01 * total


def test_coverage_counts_the_covered_share_of_a_pixel():
    square = (Part(True, np.array([(1.0, 2.0), (3.5, 2.0), (3.5, 4.0), (1.0, 4.0)])),)
    expected = np.zeros((5, 6))
    expected[2:4, 1:3], expected[2:4, 3] = 1, 0.5
    # Pillow draws the samples on the border of a polygon too: a quarter of a pixel at most.
    assert np.abs(coverage(square, 5, 6) / 255 - expected).max() <= 0.26
    assert coverage(square, 5, 6)[3, 2] == 255
    assert coverage(square, 5, 6)[0].sum() == 0


def test_a_hole_is_cut_out_and_what_is_drawn_later_fills_it():
    outer, inner = (np.array([(a, a), (b, a), (b, b), (a, b)], dtype=float) for a, b in ((1, 11), (4, 8)))
    ring = coverage((Part(True, outer), Part(False, inner)), 12, 12) >= 128
    assert not ring[5:7, 5:7].any()
    assert ring[2, 2]
    assert coverage((Part(True, outer), Part(False, inner), Part(True, inner)), 12, 12)[5, 5] == 255


def test_placing_scales_turns_and_flips():
    arrow = (Part(True, np.array([(0.0, 0.0), (1.0, 0.5), (0.0, 1.0)])),)
    (part,) = place(arrow, height=10, bottom=(20, 30), stretch=2, flipped=True)
    np.testing.assert_allclose(part.points, [(30, 20), (10, 25), (30, 30)])
    (part,) = place(arrow, height=10, bottom=(20, 30), angle=math.pi / 2)
    # Clockwise on the screen: what pointed right points down.
    np.testing.assert_allclose(part.points, [(25, 20), (20, 30), (15, 20)], atol=1e-9)


def test_instances_are_the_thing_labels_and_do_not_overlap(scenes):
    for scene in scenes:
        of_things = np.zeros_like(scene.labels)
        for instance in scene.instances:
            assert not of_things[instance.mask].any()
            of_things[instance.mask] = instance.cls.index
        indices = [cls.index for cls in MINI_CLASSES.values() if cls.is_thing]
        np.testing.assert_array_equal(of_things, np.where(np.isin(scene.labels, indices), scene.labels, 0))


def test_scenes_have_occlusion_several_scales_and_holes(scenes):
    heights, hidden, holes = [], 0, 0
    for scene in scenes:
        outlines = [outline for index, outline in scene.layers if index > 4]
        for outline in outlines:
            whole = coverage(outline, *scene.labels.shape) >= 128
            hidden += any((instance.mask & whole).sum() not in (0, whole.sum()) for instance in scene.instances)
        for instance in scene.instances:
            _, top, _, bottom = bounding_box(instance.mask)
            heights.append((bottom - top) / scene.labels.shape[0])
            holes += isinstance(encode_mask(instance.mask), dict)
    assert hidden > 3
    assert holes > 3
    assert min(heights) < 0.3
    assert max(heights) > 0.6


def test_a_thin_line_is_as_wide_as_asked_and_bends_with_its_points():
    line = tuple(shapes._stroke([(2, 3), (2, 15), (14, 15)], 2))
    inside = coverage(line, 20, 20) >= 128
    assert inside[4:15, 1:3].all()
    assert inside[14:16, 3:14].all()
    assert not inside[:13, 4:].any()
    assert inside[8].sum() == 2


def test_the_first_thing_is_whole_and_no_thing_is_hidden_too_far(scenes):
    names = [cls.name for cls in MINI_CLASSES.values() if cls.is_thing]
    least = 1.0
    for number, scene in enumerate(scenes):
        things = [(index, outline) for index, outline in scene.layers if index > 4]
        # The front is painted last; its class follows from the number of the scene.
        assert things[-1][0] == MINI_CLASSES[names[number % 4]].index
        shares = []
        for (index, outline), instance in zip(things, scene.instances, strict=True):
            assert index == instance.cls.index
            shares.append(instance.mask.sum() / (coverage(outline, *scene.labels.shape) >= 128).sum())
        assert shares[-1] == 1
        least = min(least, *shares)
    assert 0.45 <= least < 0.9


def test_a_portrait_shows_one_whole_thing(photos):
    names = set()
    for index in range(8):
        scene = draw_portrait(photos, index, (90, 120), np.random.default_rng([5, index]))
        (instance,) = scene.instances
        names.add(instance.cls.name)
        index, outline = scene.layers[-1]
        low, high = (f(np.concatenate([part.points for part in outline]), axis=0) for f in (np.min, np.max))
        assert (low >= -1e-6).all()
        assert (high <= np.array(scene.labels.shape)[::-1] + 1e-6).all()
        assert (scene.labels == index).sum() == instance.mask.sum() > 0.05 * instance.mask.size
    assert len(names) == 4


# Masks -----------------------------------------------------------------------------------------------------------


def test_rings_of_masks_drawn_by_hand():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = True
    assert outline_rings(mask) == [[(2, 1), (3, 1), (3, 2), (2, 2)]]
    mask[2, 1:3] = True
    (ring,) = outline_rings(mask)
    assert sorted(ring) == sorted([(2, 1), (3, 1), (3, 3), (1, 3), (1, 2), (2, 2)])
    corners = np.array([[1, 0], [0, 1]], dtype=bool)
    assert len(outline_rings(corners)) == 2
    hole = np.ones((3, 3), dtype=bool)
    hole[1, 1] = False
    assert sorted(map(len, outline_rings(hole))) == [4, 4]


def test_run_lengths_of_a_mask_counted_by_hand():
    mask = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    assert run_lengths(mask) == [2, 3, 1]
    assert run_lengths(~mask) == [0, 2, 3, 1]


def test_encoded_masks_decode_to_exactly_the_same_pixels():
    mask_utils = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(300):
        height, width = rng.integers(1, 12, 2)
        mask = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9])
        if not mask.any():
            continue
        encoded = encode_mask(mask)
        kinds.add(type(encoded))
        rle = mask_utils.frPyObjects(encoded, int(height), int(width))
        decoded = mask_utils.decode(mask_utils.merge(rle) if isinstance(rle, list) else rle)
        np.testing.assert_array_equal(decoded.astype(bool), mask)
    assert kinds == {list, dict}


# Layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'val'])
def test_every_class_occurs_in_both_splits_of_the_smallest_dataset(tmp_path, split):
    root = make_mini_dataset(tmp_path / 'd', **SMALL)
    values = set(np.unique(np.concatenate([labels.ravel() for labels in label_maps(root, split)])).tolist())
    assert values - {0} == {cls.ade for cls in MINI_CLASSES.values()}
    coco = json.loads((root / 'coco' / 'annotations' / f'instances_{split}2017.json').read_text())
    things = {cls for cls in MINI_CLASSES.values() if cls.is_thing}
    assert {a['category_id'] for a in coco['annotations']} == {cls.coco for cls in things}
    assert {path.name for path in (root / 'imagenet' / split).iterdir()} == {cls.wnid for cls in things}


def test_some_pixels_but_few_belong_to_no_class(dataset):
    labels = np.concatenate([labels.ravel() for split in SPLITS for labels in label_maps(dataset, split)])
    assert 0.005 < (labels == 0).mean() < 0.1


def test_label_maps_have_the_size_of_their_picture_and_sizes_vary(dataset):
    sizes = set()
    for split in SPLITS.values():
        for path in (dataset / ADE / 'images' / split).iterdir():
            labels = dataset / ADE / 'annotations' / split / f'{path.stem}.png'
            with Image.open(path) as image, Image.open(labels) as annotation:
                assert image.size == annotation.size
                assert (image.format, image.mode, annotation.format, annotation.mode) == ('JPEG', 'RGB', 'PNG', 'L')
                sizes.add(image.size)
    assert len(sizes) > 10
    assert any(width < height for width, height in sizes)
    assert any(width > height for width, height in sizes)


def test_the_layouts_hold_the_same_pictures_and_labels_under_their_own_ids(dataset):
    ade = {cls.ade: cls for cls in MINI_CLASSES.values()}
    for split, folder in SPLITS.items():
        stuff = {'train': 'train2014', 'val': 'test2014'}[split]
        lists = dataset / 'VOCdevkit/VOC2010/ImageSets/SegmentationContext' / f'{split}.txt'
        context = [dataset / 'VOCdevkit/VOC2010/JPEGImages' / f'{stem}.jpg' for stem in lists.read_text().split()]
        columns = [
            sorted((dataset / ADE / 'images' / folder).iterdir()),
            sorted((dataset / 'coco_stuff10k/images' / stuff).iterdir()),
            sorted((dataset / 'coco' / f'{split}2017').iterdir()),
            context,
        ]
        for row in zip(*columns, strict=True):
            assert len({path.read_bytes() for path in row}) == 1
            labels = read(dataset / ADE / 'annotations' / folder / f'{row[0].stem}.png')
            stuff_name = f'{row[1].stem}_labelTrainIds.png'
            in_stuff = read(dataset / 'coco_stuff10k/annotations' / stuff / stuff_name)
            in_context = read(dataset / 'VOCdevkit/VOC2010/SegmentationClassContext' / f'{row[3].stem}.png')
            for value in np.unique(labels):
                expected = (ade[value].coco_stuff, ade[value].context) if value else (0, 0)
                where = labels == value
                assert set(zip(in_stuff[where].tolist(), in_context[where].tolist(), strict=True)) == {expected}


def test_coco_annotations_are_exactly_the_things_of_the_label_maps(dataset):
    coco_api = pytest.importorskip('pycocotools.coco')
    kinds = []
    for split, folder in SPLITS.items():
        coco = coco_api.COCO(str(dataset / 'coco/annotations' / f'instances_{split}2017.json'))
        assert len(coco.getImgIds()) == len(list((dataset / 'coco' / f'{split}2017').iterdir()))
        ade = {cls.coco: cls.ade for cls in MINI_CLASSES.values() if cls.is_thing}
        for image in coco.loadImgs(coco.getImgIds()):
            number = int(image['file_name'][:12]) % 500000
            labels = read(dataset / ADE / 'annotations' / folder / f'ADE_{split}_{number:08d}.png')
            drawn = np.zeros_like(labels)
            for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
                mask = coco.annToMask(annotation).astype(bool)
                assert not drawn[mask].any()
                drawn[mask] = ade[annotation['category_id']]
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert annotation['bbox'] == box
                assert annotation['area'] == mask.sum()
                assert annotation['iscrowd'] == 0
                kinds.append(type(annotation['segmentation']))
            np.testing.assert_array_equal(drawn, np.where(np.isin(labels, list(ade.values())), labels, 0))
    assert kinds.count(list) > kinds.count(dict) > 0


def test_imagenet_boxes_and_labels_match_the_files(dataset):
    root = dataset / 'imagenet'
    boxes = json.loads((root / 'boxes.json').read_text())['images']
    files = {path.relative_to(root).as_posix() for path in root.rglob('*.JPEG')}
    assert boxes.keys() == files
    labels = {cls.wnid: cls.imagenet for cls in MINI_CLASSES.values() if cls.is_thing}
    listed = {}
    for split in SPLITS:
        for line in (root / 'meta' / f'{split}.txt').read_text().splitlines():
            name, label = line.rsplit(' ', 1)
            listed[f'{split}/{name}'] = int(label)
    for name, entry in boxes.items():
        with Image.open(root / name) as image:
            assert image.size == (entry['width'], entry['height'])
        ((left, top, right, bottom),) = entry['boxes']
        assert 0 <= left < right <= entry['width']
        assert 0 <= top < bottom <= entry['height']
        assert entry['label'] == listed[name] == labels[name.split('/')[1]]


def test_ids_names_and_colours_are_those_of_the_real_datasets():
    datasets = pytest.importorskip('mmseg.datasets')
    names = {
        'sky': ('sky', 'sky-other', 'sky'),
        'wall': ('wall', 'wall-brick', 'wall'),
        'grass': ('grass', 'grass', 'grass'),
        'gravel': ('earth', 'gravel', 'ground'),
        'airplane': ('airplane', 'airplane', 'aeroplane'),
        'cat': ('animal', 'cat', 'cat'),
        'cup': ('glass', 'cup', 'cup'),
        'motorcycle': ('minibike', 'motorcycle', 'motorbike'),
    }
    assert names.keys() == MINI_CLASSES.keys()
    ade, stuff = datasets.ADE20KDataset.METAINFO, datasets.COCOStuffDataset.METAINFO
    context, context59 = datasets.PascalContextDataset.METAINFO, datasets.PascalContextDataset59.METAINFO
    for name, cls in MINI_CLASSES.items():
        found = (
            ade['classes'][cls.ade - 1],
            stuff['classes'][cls.coco_stuff - 1],
            context['classes'][cls.context],
        )
        assert found == names[name]
        assert context59['classes'][cls.context - 1] == names[name][2]
        assert tuple(ade['palette'][cls.ade - 1]) == cls.palette


def test_coco_categories_are_the_real_ones():
    datasets = pytest.importorskip('mmdet.datasets')
    assert tuple(name for _, name, _ in catalog.COCO_CATEGORIES) == datasets.CocoDataset.METAINFO['classes']
    ids = [number for number, _, _ in catalog.COCO_CATEGORIES]
    assert ids == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    by_id = {number: name for number, name, _ in catalog.COCO_CATEGORIES}
    assert all(by_id[cls.coco] == cls.name for cls in MINI_CLASSES.values() if cls.is_thing)


def test_mmdet_reads_the_coco_layout(dataset):
    datasets = pytest.importorskip('mmdet.datasets')
    from mmdet.datasets.transforms import LoadAnnotations  # noqa: F401
    from mmengine.registry import DefaultScope

    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True},
        {'type': 'PackDetInputs'},
    ]
    with DefaultScope.overwrite_default_scope('mmdet'):
        for split, count in (('train', 24), ('val', 6)):
            data = datasets.CocoDataset(
                data_root=str(dataset / 'coco'),
                ann_file=f'annotations/instances_{split}2017.json',
                data_prefix={'img': f'{split}2017/'},
                filter_cfg={'filter_empty_gt': True, 'min_size': 32},
                test_mode=split == 'val',
                pipeline=pipeline,
            )
            assert len(data) == count
            sample = data[0]['data_samples'].gt_instances
            for box, mask in zip(sample.bboxes.tensor.tolist(), sample.masks.masks, strict=True):
                assert box == list(bounding_box(mask.astype(bool)))


def test_mmpretrain_reads_the_imagenet_layout_with_the_real_class_numbers(dataset):
    datasets = pytest.importorskip('mmpretrain.datasets')
    words = {'airplane': 'airliner', 'cat': 'tabby', 'cup': 'coffee mug', 'motorcycle': 'motor scooter'}
    folders = {MINI_CLASSES[name].wnid: word for name, word in words.items()}
    for split, count in (('train', 24), ('val', 6)):
        data = datasets.ImageNet(data_root=str(dataset / 'imagenet'), split=split, pipeline=[])
        assert len(data) == count
        for index in range(count):
            info = data.get_data_info(index)
            word = folders[Path(info['img_path']).parent.name]
            assert data.metainfo['classes'][info['gt_label']].startswith(word)


# Never in the way ------------------------------------------------------------------------------------------------


def test_an_existing_dataset_is_replaced_only_with_force(tmp_path):
    out = make_mini_dataset(tmp_path / 'd', **SMALL)
    before = digests(out)
    with pytest.raises(MiniDatasetError, match='--force'):
        make_mini_dataset(out, **{**SMALL, 'seed': 9})
    assert digests(out) == before
    make_mini_dataset(out, **{**SMALL, 'seed': 9}, force=True)
    assert digests(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ['d']


def test_force_touches_nothing_that_this_tool_did_not_write(tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'thesis.txt').write_text('x')
    with pytest.raises(MiniDatasetError, match='not written by this tool'):
        make_mini_dataset(foreign, **SMALL, force=True)
    assert [path.name for path in foreign.iterdir()] == ['thesis.txt']

    out = make_mini_dataset(tmp_path / 'd', **SMALL)
    mine = out / ADE / 'images' / 'thesis.txt'
    mine.write_text('x')
    before = digests(out)
    with pytest.raises(MiniDatasetError, match=r'thesis\.txt'):
        make_mini_dataset(out, **SMALL, force=True)
    assert digests(out) == before


@pytest.mark.parametrize('content', ['', '{', '[]', '{"files": null}'])
def test_force_refuses_a_dataset_whose_list_of_files_is_damaged(tmp_path, content):
    out = tmp_path / 'd'
    out.mkdir()
    (out / MARKER).write_text(content)
    with pytest.raises(MiniDatasetError, match='remove the folder yourself'):
        make_mini_dataset(out, **SMALL, force=True)
    assert (out / MARKER).read_text() == content


def test_links_and_files_are_refused_and_an_empty_folder_is_filled(tmp_path):
    target = tmp_path / 'target'
    target.mkdir()
    (tmp_path / 'link').symlink_to(target)
    with pytest.raises(MiniDatasetError, match='symbolic link'):
        make_mini_dataset(tmp_path / 'link', **SMALL)
    (tmp_path / 'file').write_text('x')
    with pytest.raises(MiniDatasetError, match='is a file'):
        make_mini_dataset(tmp_path / 'file', **SMALL, force=True)
    assert (tmp_path / 'file').read_text() == 'x'
    make_mini_dataset(target, **SMALL)
    assert (target / MARKER).is_file()


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError(28, 'No space left on device')])
def test_a_broken_off_run_leaves_nothing_and_keeps_the_older_dataset(tmp_path, monkeypatch, error):
    out = make_mini_dataset(tmp_path / 'd', **SMALL)
    before = digests(out)

    def broken(*_):
        raise error

    monkeypatch.setattr(writer, '_write_portraits', broken)
    for target in (out, tmp_path / 'new'):
        with pytest.raises((KeyboardInterrupt, MiniDatasetError)):
            make_mini_dataset(target, **SMALL, force=True)
    assert digests(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['d']


def test_the_older_dataset_comes_back_when_the_new_one_cannot_be_moved_into_place(tmp_path, monkeypatch):
    out = make_mini_dataset(tmp_path / 'd', **SMALL)
    before = digests(out)
    rename = Path.rename

    def failing(path, target):
        if path.name.startswith('.d.partial'):
            raise OSError(13, 'Permission denied')
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', failing)
    with pytest.raises(MiniDatasetError, match='Permission denied'):
        make_mini_dataset(out, **{**SMALL, 'seed': 9}, force=True)
    assert digests(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['d']


# The command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['{out}', '--size', '0x3'], 'must both be 48 to 2048 pixels'),
        (['{out}', '--size', '150'], "'150' is no size"),
        (['{out}', '--size', '150x-2'], "'150x-2' is no size"),
        (['{out}', '--images', '-1'], 'at least 4'),
        (['{out}', '--images', 'many'], "'many'"),
        (['{out}', '--images', '100000'], 'at most 99999'),
        (['{out}', '--seed', '-1'], 'must not be negative'),
        (['{file}'], 'is a file'),
        (['{file}/below'], 'cannot be written'),
        (['{out}', '--colour'], '--colour'),
        ([], 'OUT'),
    ],
)
def test_a_wrong_argument_ends_in_one_sentence_and_exit_code_2(tmp_path, capsys, arguments, expected):
    (tmp_path / 'file').write_text('x')
    paths = {'out': tmp_path / 'out', 'file': tmp_path / 'file'}
    try:
        code = run_verb('mini_dataset', [argument.format(**paths) for argument in arguments])
    except SystemExit as stop:  # argparse ends the process itself
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r'make_mini_dataset(\.py)?: error: ', line)
    assert expected in line
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_the_command_writes_the_dataset_and_says_where_each_layout_begins(tmp_path, capsys):
    out = tmp_path / 'd'
    assert run_verb('mini_dataset', [str(out), '--images', '4', '--size', '48x61', '--seed', '2']) == 0
    printed = capsys.readouterr().out
    assert all(str(out / root) in printed for root in DATA_ROOTS.values())
    assert all((out / root).is_dir() for root in DATA_ROOTS.values())
    assert digests(out) == digests(make_mini_dataset(tmp_path / 'e', images=4, size=(48, 61), seed=2))


def test_an_interrupted_command_says_so_and_exits_with_130(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, '_write_scenes', interrupted)
    assert run_verb('mini_dataset', [str(tmp_path / 'd'), '--images', '4']) == 130
    assert 'interrupted; nothing has been written' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_photograph_or_scikit_image_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, 'PHOTOS', {**catalog.PHOTOS, 'unicorn.png': None})
    with pytest.raises(MiniDatasetError, match=r'unicorn\.png cannot be read.*pip install'):
        make_mini_dataset(tmp_path / 'd', **SMALL)
    monkeypatch.setattr(catalog.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(MiniDatasetError, match=r"pip install 'scikit-image"):
        make_mini_dataset(tmp_path / 'd', **SMALL)
    assert not list(tmp_path.iterdir())


def test_progress_is_told_after_every_picture(tmp_path):
    calls = []
    make_mini_dataset(tmp_path / 'd', **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 16) for done in range(1, 17)]


def test_it_needs_no_openmmlab_library(tmp_path):
    program = (
        'import sys\n'
        "for name in ('mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'torch'): sys.modules[name] = None\n"
        'from mmvit_ext.cli.main import run_verb\n'
        f'sys.exit(run_verb("mini_dataset", [{str(tmp_path / "d")!r}, "--images", "4", "--size", "48x61"]))\n'
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'd' / MARKER).is_file()


def test_other_is_index_zero_and_classes_count_from_one():
    assert OTHER == 0
    assert [cls.index for cls in MINI_CLASSES.values()] == list(range(1, 9))
