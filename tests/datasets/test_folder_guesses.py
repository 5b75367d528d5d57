"""Folders of masks for single classes or objects, and what is asked about or refused because it would be a guess."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.datasets.folder import understand, write_datasets
from mmvit_ext.datasets.folder.parts import draw_objects
from mmvit_ext.errors.user_error import UserError
from tests import folder_exports  # noqa: F401
from tests.datasets.test_folder import counts, load
from tests.datasets.test_folder_mistakes import doubt, masks
from tests.folder_layouts import BOXES, LAYOUTS, SIZE, VOC_PALETTE, blocks, mask, photo, voc_xml, write


def test_masks_that_number_objects_are_no_classes(tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / f'images/{index}.jpg')
        mask(tmp_path / f'masks/{index}.png', [0, *range(1000 + index * 10, 1007 + index * 10)], kind=np.uint16)
    with pytest.raises(UserError, match=r'43 different values .* and 42 of them in one mask only.* pass --task inst'):
        understand(tmp_path)
    data = understand(tmp_path, task='inst')
    doubt(data, 'each value of a mask but 0 is taken as one object')
    assert (data.classes, counts(data)) == (('object',), (5, 1, 0))
    assert [item.box for item in data.splits['val'][0].objects] == [(4 * n, 0, 4, 24) for n in range(1, 8)]
    (tmp_path / 'masks').rename(tmp_path / 'instances')
    with pytest.raises(UserError, match=r'like instances/0.png, are called as those that number objects'):
        understand(tmp_path)


@pytest.mark.parametrize(
    'name', ['{0}/images/{0}.png|{0}/masks/{1}.png', '{0}.jpg|{0}_{1}.png', 'i/{0}.png|masks/{1}/{0}.png']
)
def test_masks_of_one_class_each_are_merged(tmp_path: Path, name: str) -> None:
    image, part = name.split('|')
    for index in ('a1f', 'b2e', 'c3d'):
        photo(tmp_path / 'in' / image.format(index))
        for item, values in (('road', [255, 0, 0]), ('car', [0, 255, 255])):
            mask(tmp_path / 'in' / part.format(index, item), values)
    data = understand(tmp_path / 'in')
    assert data.classes == ('background', 'car', 'road')
    doubt(data, r'called as the files are \(car, road\)')
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([2, 1, 1]))
    assert len(understand(tmp_path / 'in', task='inst').splits['train'][0].objects) == 2
    mask(tmp_path / 'in' / part.format('a1f', 'road'), [0, 1, 2])
    with pytest.raises(UserError, match=r'(a1f|road).*(a1f|road).* holds more than two values'):
        understand(tmp_path / 'in', task='inst')


def test_masks_of_objects_with_mistakes_are_named(tmp_path: Path) -> None:
    LAYOUTS['masks_of_objects'](tmp_path)
    path = tmp_path / 'stage1_train/0f3a9c0/masks/0b0cc.png'
    mask(path, [0, 255], size=(12, 16))
    doubt(understand(tmp_path), r'1 of 15 masks cannot be used: .*/0b0cc.png \(not of the size of its image\)')
    assert understand(tmp_path, task='seg').classes == ('background', 'object')


def test_folders_that_are_no_classes_are_asked_about(tmp_path: Path) -> None:
    for names in (('2021_holiday', '2022_garden'), ('scene1', 'scene2'), ('100CANON', '101CANON')):
        for name in names:
            for index in range(4):
                photo(tmp_path / names[0] / name / f'IMG_{index:04}.jpg')
        with pytest.raises(UserError, match=rf'its 2 folders \({", ".join(names)}\) .* pass --task cls'):
            understand(tmp_path / names[0])
        assert understand(tmp_path / names[0], task='cls').classes == names
    LAYOUTS['class_folders'](tmp_path / 'classes')
    doubt(understand(tmp_path / 'classes'), 'so folders are taken as classes: pass --task cls if so')


def test_pixels_that_are_not_read_are_said(tmp_path: Path) -> None:
    masks(tmp_path, number=3)
    tags = ((256, 3, 1, 32), (257, 3, 1, 24), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 5))
    entries = b''.join(struct.pack('<HHII', *tag) for tag in tags)
    for path in list((tmp_path / 'images').iterdir()):
        path.with_suffix('.tif').write_bytes(b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4))
        path.unlink()
    with pytest.raises(UserError, match=r'3 of 3 images have unsupported pixels: images/00.tif \(5 channels of 8 bits'):
        understand(tmp_path)
    for path in (tmp_path / 'images').iterdir():
        Image.fromarray(np.ones(SIZE, np.float32)).save(path)
    with pytest.raises(UserError, match='has images of fractions'):
        understand(tmp_path)


def test_masks_of_a_single_value_are_refused(tmp_path: Path) -> None:
    masks(tmp_path, [1, 1])
    with pytest.raises(UserError, match='hold a single class, class_1'):
        understand(tmp_path)


def test_what_is_not_understood_is_quoted(tmp_path: Path) -> None:
    photo(tmp_path / 'a/0.png')
    photo(tmp_path / 'a/1.png')
    write(tmp_path / 'a/0.mat', 'x')
    write(tmp_path / 'label/0.txt', 'Car 0.00 0 -1.57 5 6 20 18')
    with pytest.raises(UserError, match=r'label/0.txt begins with "Car 0.00 .*; files that are not read: 1 .mat'):
        understand(tmp_path)


def test_lines_without_a_label_are_named(tmp_path: Path) -> None:
    LAYOUTS['csv_labels'](tmp_path)
    path = tmp_path / 'train.csv'
    path.write_text(path.read_text().replace('0003;scab', '0003;'))
    doubt(understand(tmp_path), r'1 of 10 lines of train.csv have no label: 0003;')


def test_images_in_no_list_need_no_mask(tmp_path: Path) -> None:
    LAYOUTS['voc_segmentation'](tmp_path)
    base = tmp_path / 'VOCdevkit/VOC2012'
    for index in range(6, 16):
        photo(base / f'JPEGImages/2007_{index:06}.jpg')
        voc_xml(base / f'Annotations/2007_{index:06}.xml', f'2007_{index:06}.jpg', BOXES)
    data = understand(tmp_path, task='seg')
    assert counts(data) == (4, 2, 0)
    doubt(data, '10 images are in no list and have no mask')
    (base / 'SegmentationClass/2007_000003.png').unlink()
    doubt(understand(tmp_path, task='seg'), '1 of 6 images have no mask: .*2007_000003.jpg')


def test_names_of_the_folder_count_more_than_those_of_a_known_dataset(tmp_path: Path) -> None:
    LAYOUTS['voc_segmentation'](tmp_path)
    doubt(understand(tmp_path), 'those of PASCAL VOC, so the classes are')
    write(tmp_path / 'class_names.txt', '_background_\ncat\ncar\ndog\n')
    assert understand(tmp_path).classes == ('_background_', 'cat', 'car', 'dog')


def test_objects_of_voc_take_their_classes_from_the_masks_of_classes(tmp_path: Path) -> None:
    LAYOUTS['voc_segmentation'](tmp_path)
    base = tmp_path / 'VOCdevkit/VOC2012'
    for index in range(6):
        voc_xml(base / f'Annotations/2007_{index:06}.xml', f'2007_{index:06}.jpg', BOXES)
    data = understand(tmp_path, task='inst')
    assert (data.task, len(data.classes), counts(data)) == ('inst', 20, (4, 2, 0))
    objects = data.splits['val'][0].objects
    assert [(data.classes[item.label], item.box, item.area) for item in objects] == [
        ('aeroplane', (8, 0, 8, 24), 192),
        ('bird', (16, 0, 8, 24), 192),
    ]
    doubt(data, r'there are boxes, too \(XML files for 6 images with boxes\): pass --task det')
    mask(base / 'SegmentationClass/2007_000000.png', [0, 1, 255, 255], palette=VOC_PALETTE)
    data = understand(tmp_path, task='inst')
    doubt(data, r'2007_000000.png \(1 objects without a class in .*SegmentationClass/2007_000000.png\)')
    for path in (base / 'SegmentationObject').iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r'no masks of its objects .* pass --task det'):
        understand(tmp_path, task='inst')


FOREIGN = {
    'Label Studio': ('tasks.json', '[{"id": 1, "file_upload": "0.jpg", "annotations": [{"result": [{"value": '
                     '{"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}}]}]}]'),
    'KITTI': ('label_2/0.txt', 'Car 0.00 0 -1.58 1.0 2.0 14.0 20.0 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n'),
    'WIDER FACE': ('wider_face_train_bbx_gt.txt', '0.jpg\n1\n4 1 12 14 2 0 0 0 0 0 \n'),
}  # fmt: skip


@pytest.mark.parametrize('name', FOREIGN)
def test_formats_that_are_not_read_are_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    path, text = FOREIGN[name]
    for index in range(6):
        photo(tmp_path / f'images/{"ab"[index % 2]}/{index}.jpg')
    write(tmp_path / path, text)
    with pytest.raises(UserError, match=rf'{path} is (an export )?of {name}.*which is not read: (export|write)'):
        understand(tmp_path)
    for index in range(6):
        mask(tmp_path / f'masks/{"ab"[index % 2]}/{index}.png', [0, 1, 2])
    data = understand(tmp_path)
    assert data.task == 'seg'
    doubt(data, f'of {name}')


@pytest.mark.parametrize('name', ['coco_splits', 'yolo_polygons', 'labelme', 'supervisely'])
def test_masks_of_objects_are_drawn_into_label_maps(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / 'in')
    objects, data = understand(tmp_path / 'in', task='inst'), understand(tmp_path / 'in', task='seg')
    doubt(data, 'label maps are drawn from the masks of objects, .*: pass --task inst')
    assert (data.task, data.classes, data.background) == ('seg', ('background', *objects.classes), 0)
    assert counts(data) == counts(objects)
    labels = load(data, tmp_path / 'out', 'val')['gt_seg_map']
    expected = {0, *(item.label + 1 for item in objects.splits['val'][0].objects)}
    assert labels.shape == SIZE
    assert set(np.unique(labels)) == expected
    for item in objects.splits['val'][0].objects:
        points = np.reshape(item.mask[0], (-1, 2)) if isinstance(item.mask, list) else np.reshape(item.box, (2, 2))
        column, row = points.mean(0).astype(int)
        assert labels[row, column] == item.label + 1


def one_image(root: Path, *annotations: dict[str, object], classes: int = 2) -> None:
    """Two photographs (H, W) = (24, 32), the first with these annotations and the second with a box and its mask."""
    content: dict[str, list[dict[str, object]]] = {'images': [], 'annotations': [], 'categories': []}
    square = [[0, 0, 4, 0, 4, 4, 0, 4]]
    for number, items in enumerate((annotations, ({'category_id': 1, 'segmentation': square},)), 1):
        photo(root / f'{number}.jpg')
        content['images'].append({'id': number, 'file_name': f'{number}.jpg', 'height': SIZE[0], 'width': SIZE[1]})
        for item in items:
            entry = {'id': len(content['annotations']) + 1, 'image_id': number, 'bbox': [0, 0, 9, 9], **item}
            content['annotations'].append(entry)
    content['categories'] = [{'id': number, 'name': f'c{number}'} for number in range(1, classes + 1)]
    write(root / 'labels.json', json.dumps(content))


def test_the_smaller_object_is_seen_and_crowds_have_no_label(tmp_path: Path) -> None:
    rows, columns = SIZE
    crowd = {'size': [rows, columns], 'counts': [rows * (columns - 2), rows * 2]}  # the last two columns
    one_image(
        tmp_path / 'in',
        {'category_id': 2, 'segmentation': [[2, 2, 6, 2, 6, 6, 2, 6]]},
        {'category_id': 1, 'segmentation': [[0, 0, 12, 0, 12, 12, 0, 12], [20, 20, 24, 20, 24, 24, 20, 24]]},
        {'category_id': 1, 'segmentation': crowd, 'iscrowd': 1},
    )
    data = understand(tmp_path / 'in', task='seg')
    sample = next(item for items in data.splits.values() for item in items if item.image == '1.jpg')
    expected = np.zeros(SIZE, np.uint8)
    expected[:12, :12] = expected[20:24, 20:24] = 1
    expected[2:6, 2:6] = 2
    expected[:, -2:] = 255
    assert np.array_equal(draw_objects(sample), expected)


@pytest.mark.parametrize(
    'mask',
    [
        {'size': [9, 9], 'counts': [40, 41]},
        {'size': [9, 9], 'counts': 'X1'},
        {'size': [24, 32], 'counts': {}},
        {'counts': 'X1'},
        'abc',
        [['a', 'b', 'c', 'd', 'e', 'f']],
    ],
)
def test_masks_that_cannot_be_drawn_are_named(tmp_path: Path, mask: object) -> None:
    one_image(tmp_path / 'in', {'category_id': 2, 'segmentation': mask})
    data = understand(tmp_path / 'in', task='seg')
    with pytest.raises(UserError, match=r'a mask of 1\.jpg is neither polygons nor run lengths of 32x24 pixels'):
        write_datasets(data, tmp_path / 'out')


def test_more_classes_than_a_label_map_holds_are_refused(tmp_path: Path) -> None:
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    one_image(tmp_path, {'category_id': 2, 'segmentation': square}, classes=255)
    with pytest.raises(UserError, match='has 256 classes, and a label map holds 255: pass --task inst'):
        understand(tmp_path, task='seg')


def test_objects_called_background_or_void_are_that(tmp_path: Path) -> None:
    square, names = [[2, 2, 6, 2, 6, 6, 2, 6]], ('void', '_background_', 'leaf')
    one_image(tmp_path, *({'category_id': number, 'segmentation': square} for number in (1, 2, 3)), classes=3)
    text = (tmp_path / 'labels.json').read_text()
    for number, name in enumerate(names, 1):
        text = text.replace(f'"c{number}"', f'"{name}"')
    write(tmp_path / 'labels.json', text)
    data = understand(tmp_path, task='seg')
    sample = next(item for items in data.splits.values() for item in items if item.image == '1.jpg')
    assert data.classes == ('background', 'leaf')
    assert [item.label for item in sample.objects] == [255, 0, 1]
