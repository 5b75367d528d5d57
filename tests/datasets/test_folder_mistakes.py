"""Folders with mistakes and with things to guess: what is left out, refused or taken, and the sentence that says so."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.datasets.folder import FolderData, understand
from mmvit_ext.errors.user_error import UserError
from tests.datasets.test_folder import counts, load
from tests.folder_layouts import BOXES, LAYOUTS, SIZE, blocks, coco_one_file, colours, mask, photo, voc_xml, write


def masks(root: Path, values: list[int] | None = None, number: int = 12, suffix: str = 'png') -> None:
    """Photographs in ``images`` and masks in ``masks``."""
    for index in range(number):
        photo(root / f'images/{index:02}.jpg')
        mask(root / f'masks/{index:02}.{suffix}', values or [0, 1, 2])


def doubt(data: FolderData, pattern: str) -> str:
    """The one doubt that a pattern is found in."""
    found = [text for text in data.doubts if re.search(pattern, text)]
    assert len(found) == 1, data.doubts
    return found[0]


def images(data: FolderData) -> set[str]:
    return {sample.image for samples in data.splits.values() for sample in samples}


def missing_mask(root: Path) -> str:
    (root / 'masks/03.png').unlink()
    return r'1 of 12 images have no mask: images/03.jpg; .* add their masks'


def mask_of_another_size(root: Path) -> str:
    mask(root / 'masks/03.png', [0, 1, 2], size=(12, 16))
    return r'masks are not of the size of their image: masks/03.png \(16x12, its image images/03.jpg 32x24\)'


def cut_off_photograph(root: Path) -> str:
    path = root / 'images/03.jpg'
    path.write_bytes(path.read_bytes()[:-200])
    return r'1 of 12 images are broken: images/03.jpg \(is cut off\); .* replace them'


def text_called_photograph(root: Path) -> str:
    (root / 'images/03.jpg').write_text('<html>not found</html>')
    return r'images are broken: images/03.jpg \(cannot be decoded'


def damaged_mask(root: Path) -> str:
    path = root / 'masks/03.png'
    content = bytearray(path.read_bytes())
    content[45] ^= 0xFF
    path.write_bytes(content)
    return r'masks are broken: masks/03.png'


def empty_photograph(root: Path) -> str:
    (root / 'images/03.jpg').write_bytes(b'')
    return r'1 masks have no image and are not used: masks/03.png'


def stray_value(root: Path) -> str:
    mask(root / 'masks/03.png', [0, 1, 2, 77])
    return r'masks with values that no other mask has \(77\): masks/03.png; .* classes.txt'


def value_without_name(root: Path) -> str:
    write(root / 'classes.txt', 'sky\nroad\ntree\n')
    mask(root / 'masks/03.png', [0, 1, 2, 3])
    return r'masks with values that classes.txt does not name \(3\): masks/03.png; .* correct the masks'


@pytest.mark.parametrize(
    'mistake',
    [
        missing_mask,
        mask_of_another_size,
        cut_off_photograph,
        text_called_photograph,
        damaged_mask,
        empty_photograph,
        stray_value,
        value_without_name,
    ],
)
def test_a_pair_with_a_mistake_is_left_out_and_named(tmp_path: Path, mistake: Callable[[Path], str]) -> None:
    masks(tmp_path)
    pattern = mistake(tmp_path)
    data = understand(tmp_path)
    doubt(data, pattern)
    assert images(data) == {f'images/{index:02}.jpg' for index in range(12) if index != 3}
    assert len(data.classes) == 3


def test_many_mistakes_are_refused(tmp_path: Path) -> None:
    masks(tmp_path)
    for index in range(6):
        (tmp_path / f'masks/{index:02}.png').unlink()
    with pytest.raises(
        UserError, match=r'6 of 12 images have no mask: (images/0\d.jpg, ){4}images/04.jpg and 1 more; .*'
    ):
        understand(tmp_path)


def test_names_of_classes_are_read_and_those_that_never_occur_are_said(tmp_path: Path) -> None:
    masks(tmp_path)
    write(tmp_path / 'classes.txt', 'sky\nroad\ntree\nlake\n')
    data = understand(tmp_path)
    assert data.classes == ('sky', 'road', 'tree', 'lake')
    doubt(data, 'never occur: lake;')
    for name in ('train', 'val'):
        for index in range(3):
            photo(tmp_path / f'split/images/{name}/{index}.jpg')
            mask(tmp_path / f'split/masks/{name}/{index}.png', [0, 1] if name == 'train' else [0, 1, 2])
    assert doubt(understand(tmp_path / 'split'), 'cannot be learned').endswith(': class_2')


@pytest.mark.parametrize(
    ('values', 'classes', 'loaded', 'pattern'),
    [
        ([0, 255], ('background', 'foreground'), [0, 1], '255 of the masks is taken as the foreground'),
        ([0, 1, 255], ('background', 'foreground'), [0, 1, 255], None),
        ([0, 128, 255], ('class_0', 'class_128', 'class_255'), [0, 1, 2], 'have no names'),
        ([0, 5, 100, 255], ('class_0', 'class_5', 'class_100'), [0, 1, 2, 255], 'have no names'),
        ([3, 7, 11, 255], ('class_3', 'class_7', 'class_11'), [0, 1, 2, 255], 'have no names'),
        ([0, 1, 2, 3, 4, 255], tuple(f'class_{n}' for n in range(5)), [0, 1, 2, 3, 4, 255], 'value 0 .* as a class'),
    ],
)
def test_values_of_masks(
    tmp_path: Path, values: list[int], classes: tuple[str, ...], loaded: list[int], pattern: str | None
) -> None:
    masks(tmp_path / 'in', values)
    data = understand(tmp_path / 'in')
    assert data.classes == classes
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks(loaded))
    if pattern:
        doubt(data, pattern)


def test_names_that_count_from_one_leave_zero_without_label(tmp_path: Path) -> None:
    masks(tmp_path / 'in', [0, 1, 2])
    write(tmp_path / 'in/labels.txt', 'cat\ndog\n')
    data = understand(tmp_path / 'in')
    assert data.classes == ('cat', 'dog')
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([255, 0, 1]))
    doubt(data, 'labels.txt names values from 1 on: 0 is taken as "no label"')


def test_two_numbered_names_keep_their_numbers_in_masks_of_two_values(tmp_path: Path) -> None:
    masks(tmp_path / 'in', [0, 1, 0])
    write(tmp_path / 'in/classes.csv', 'id,name\n1,cat\n2,dog\n')
    data = understand(tmp_path / 'in')
    assert data.classes[0] == 'cat'
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([255, 0, 255]))
    doubt(data, 'classes.csv names values from 1 on: 0 is taken as "no label"')


def test_blurred_edges_between_colours_are_no_classes(tmp_path: Path) -> None:
    palette = [(0, 0, 0), (200, 30, 30), (30, 30, 200)]
    for index in range(6):
        photo(tmp_path / f'in/images/{index}.jpg')
        colours(tmp_path / f'in/masks/{index}.png', palette, blur=True)
    data = understand(tmp_path / 'in')
    assert data.classes == ('background', 'color_1e1ec8', 'color_c81e1e')
    assert data.palette == (palette[0], palette[2], palette[1])
    doubt(data, r'colours of blurred edges or single pixels, [0-9.]+% of all pixels, are ignored')
    labels = load(data, tmp_path / 'out')['gt_seg_map']
    assert set(np.unique(labels)) == {0, 1, 2, 255}
    write(tmp_path / 'in/class_dict.csv', 'name,r,g,b\nrust,200,30,30\nnothing,0,0,0\n')
    data = understand(tmp_path / 'in')
    assert data.classes == ('rust', 'nothing')
    doubt(data, r'colours that class_dict.csv does not name are ignored: #1e1ec8, in 6 masks')


def test_blurred_grey_masks_are_two_classes(tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / f'in/images/{index}.jpg')
        path = tmp_path / f'in/masks/{index}.png'
        colours(path, [(0, 0, 0), (255, 255, 255)], blur=True)
        Image.open(path).convert('L').save(path)
    data = understand(tmp_path / 'in')
    assert data.classes == ('background', 'foreground')
    assert data.load_annotations['values'] == ['#000000', '#ffffff']
    assert set(np.unique(load(data, tmp_path / 'out')['gt_seg_map'])) == {0, 1, 255}


def test_jpeg_masks_take_the_nearest_class(tmp_path: Path) -> None:
    masks(tmp_path / 'in', [0, 255], suffix='jpg')
    data = understand(tmp_path / 'in')
    assert data.classes == ('background', 'foreground')
    doubt(data, 'the masks are JPEG files')
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([0, 1]))


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('quality', [50, 90])
def test_false_colours_at_the_edges_of_jpeg_masks_are_no_classes(tmp_path: Path, suffix: str, quality: int) -> None:
    palette, size = [(0, 0, 0), (200, 30, 30), (30, 30, 200), (60, 180, 75)], (96, 128)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for index in range(6):
        labels = np.zeros(size, int)
        for number in (1, 2, 3):
            labels[np.hypot(rows - 20 * number - index, columns - 30 * number) < 18] = number
        photo(tmp_path / f'in/images/{index}.jpg', size)
        path = tmp_path / f'in/masks/{index}.jpg'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.array(palette, np.uint8)[labels]).save(path, quality=quality)
        if suffix == 'png':  # saved anew
            Image.open(path).save(path.with_suffix('.png'))
            path.unlink()
    data = understand(tmp_path / 'in')
    assert len(data.classes) == 4
    doubt(data, 'JPEG files.*pixels take the nearest class')
    assert sorted(np.abs(np.array(data.palette) - np.array(sorted(palette))).max(1))[-1] <= 16
    name = data.splits['train'][0].image[7]
    labels = load(data, tmp_path / 'out', size=size)['gt_seg_map']
    order = sorted(range(4), key=lambda number: palette[number])
    exact = np.zeros(size, int)
    for number in (1, 2, 3):
        exact[np.hypot(rows - 20 * number - int(name), columns - 30 * number) < 18] = order.index(number)
    assert (labels == exact).mean() > 0.93
    assert ((labels != exact) & (labels != 255)).mean() < 0.04


def test_colours_count_where_each_file_has_a_palette_of_its_own(tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / f'in/images/{index}.jpg')
        order = [0, 0, 0, 250, 0, 0] if index % 2 else [250, 0, 0, 0, 0, 0]
        mask(tmp_path / f'in/masks/{index}.png', [0, 1], palette=order)
    data = understand(tmp_path / 'in')
    assert data.load_annotations['values'] == ['#000000', '#fa0000']
    assert load(data, tmp_path / 'out')['gt_seg_map'][0, 0] == (0 if data.splits['train'][0].image[10] in '135' else 1)


def test_grey_masks_saved_in_colour_hold_numbers(tmp_path: Path) -> None:
    masks(tmp_path / 'in')
    for path in (tmp_path / 'in/masks').iterdir():
        Image.open(path).convert('RGB').save(path)
    data = understand(tmp_path / 'in')
    assert data.classes == ('class_0', 'class_1', 'class_2')
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([0, 1, 2]))


def test_masks_of_fractions_hold_numbers(tmp_path: Path) -> None:
    masks(tmp_path / 'in')
    for path in list((tmp_path / 'in/masks').iterdir()):
        Image.fromarray(blocks([0, 1, 2]).astype(np.float32)).save(path.with_suffix('.tif'))
        path.unlink()
    data = understand(tmp_path / 'in')
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([0, 1, 2]))


def test_classes_may_be_called_as_masks_are(tmp_path: Path) -> None:
    for name in ('mask', 'no mask'):
        for index in range(6):
            photo(tmp_path / name / f'{index}.jpg')
    data = understand(tmp_path)
    assert (data.task, data.classes) == ('cls', ('mask', 'no mask'))


def test_the_task_chooses_among_annotations(tmp_path: Path) -> None:
    LAYOUTS['voc_segmentation'](tmp_path)
    for index in range(6):
        base = tmp_path / 'VOCdevkit/VOC2012'
        voc_xml(base / f'Annotations/2007_{index:06}.xml', f'2007_{index:06}.jpg', BOXES)
    data = understand(tmp_path)
    assert data.task == 'seg'
    doubt(data, 'there are boxes, too .* --task det')
    assert understand(tmp_path, task='det').classes == ('cat', 'dog')
    assert understand(tmp_path, task='inst').task == 'inst'
    for path in list((base / 'SegmentationClass').iterdir())[:3]:
        path.unlink()
    data = understand(tmp_path)
    assert data.task == 'det'
    doubt(data, 'images have masks, too: pass --task seg')


def test_xml_files_with_mistakes_are_named(tmp_path: Path) -> None:
    for index in range(12):
        photo(tmp_path / f'JPEGImages/{index:06}.jpg')
        voc_xml(tmp_path / f'Annotations/{index:06}.xml', f'{index:06}.jpg', BOXES)
    write(tmp_path / 'Annotations/000001.xml', '<annotation><object>')
    voc_xml(tmp_path / 'Annotations/000002.xml', '000002.jpg', {'dog': (5, 5, 5, 3), 'cat': (1, 1, 90, 90)})
    (tmp_path / 'JPEGImages/000003.jpg').unlink()
    (tmp_path / 'Annotations/000004.xml').unlink()
    data = understand(tmp_path)
    doubt(data, r'1 of 11 XML files cannot be read: Annotations/000001.xml')
    doubt(data, r'1 of 10 images of XML files are missing: Annotations/000003.xml')
    doubt(data, r'1 of 18 objects that are no box in their image: Annotations/000002.xml: object 1;')
    doubt(data, r'left out 2 of 11 images without annotation: JPEGImages/000001.jpg, JPEGImages/000004.jpg')
    second = next(s for samples in data.splits.values() for s in samples if s.image.endswith('02.jpg'))
    assert [(item.label, item.box) for item in second.objects] == [(0, (0, 0, 32, 24))]


def test_lines_of_yolo_with_mistakes_are_named(tmp_path: Path) -> None:
    LAYOUTS['yolo'](tmp_path)
    write(tmp_path / 'labels/train/im1.txt', '0 0.5 0.5 0.2 0.25\n0 0.5 1.5 0.2 0.2\n')
    (tmp_path / 'labels/train/im2.txt').unlink()
    data = understand(tmp_path)
    doubt(data, r'1 of 8 objects that are no box in their image: labels/train/im1.txt:2')
    doubt(data, r'1 of 6 images have no text file and are taken as images without objects: images/train/im2.jpg')
    assert counts(data) == (4, 2, 0)
    write(tmp_path / 'labels/train/im1.txt', '7 0.5 0.5 0.2 0.25\n')
    with pytest.raises(UserError, match=r'class numbers 7 \(labels/train/im1.txt:1\) .* 3 classes of data.yaml'):
        understand(tmp_path)


@pytest.mark.parametrize('task', ['seg', 'cls'])
def test_annotations_of_another_task_are_said_to_be_there(tmp_path: Path, task: str) -> None:
    coco_one_file(tmp_path)
    with pytest.raises(UserError, match=r'has annotations for object detection and none for .*: pass --task det'):
        understand(tmp_path, task=task)


def test_folders_of_masks_are_not_taken_as_a_class_without_a_word(tmp_path: Path) -> None:
    masks(tmp_path)
    doubt(understand(tmp_path, task='cls'), 'called as those of masks are: pass --task seg')


def test_coco_files_with_mistakes_are_named(tmp_path: Path) -> None:
    LAYOUTS['coco_one_file'](tmp_path)
    path = tmp_path / 'labels.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'] = [5, 5, 0, 3]
    content['annotations'][1]['category_id'] = 9
    content['categories'].append({'id': 3, 'name': 'cow'})
    path.write_text(json.dumps(content))
    (tmp_path / 'data/pic 4.png').unlink()
    data = understand(tmp_path)
    doubt(data, r'1 of 10 images of labels.json are not in the folder: pic 4.png')
    doubt(data, r'2 of 18 objects .*: labels.json: annotation 1, labels.json: annotation 2 \(unknown category 9\)')
    doubt(data, 'classes that never occur: cow')
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r'labels.json is no JSON file .* export it again'):
        understand(tmp_path)


def test_files_of_one_format_for_the_same_images_are_not_mixed(tmp_path: Path) -> None:
    LAYOUTS['coco_splits'](tmp_path)
    data = understand(tmp_path)
    assert sum('person_keypoints' in text and 'is not used' in text for text in data.doubts) == 2
    assert [sample.image for sample in data.splits['val']] == [f'val2017/{index:012}.jpg' for index in range(2)]


def test_missing_splits_are_said(tmp_path: Path) -> None:
    masks(tmp_path / 'none')
    doubt(understand(tmp_path / 'none'), '20% of the images, drawn by the seed 0, validate')
    assert understand(tmp_path / 'none') == understand(tmp_path / 'none')
    assert images(understand(tmp_path / 'none')) == images(understand(tmp_path / 'none', seed=1, val_share=0.5))
    assert len(understand(tmp_path / 'none', val_share=0.5).splits['val']) == 6
    LAYOUTS['drive'](tmp_path / 'test')
    data = understand(tmp_path / 'test')
    doubt(data, 'the test split is used as one')
    doubt(data, r'several masks: those like .*1st_manual.* and not those like .*mask')
    LAYOUTS['deepglobe'](tmp_path / 'unlabelled')
    doubt(understand(tmp_path / 'unlabelled'), '3 images in valid/ have no annotation and are not used')


def test_frames_of_videos_are_said(tmp_path: Path) -> None:
    for video in ('street_a', 'street_b'):
        for index in range(8):
            photo(tmp_path / f'images/{video}_{index:04}.jpg')
            mask(tmp_path / f'masks/{video}_{index:04}.png', [0, 1, 2])
    doubt(understand(tmp_path), r'frames of 2 videos or series \(images/street_a_, images/street_b_\)')


def test_channels_and_bits_are_those_of_the_images(tmp_path: Path) -> None:
    for name, channels in (('grey', 1), ('colour', 3), ('four', 4)):
        for index in range(4):
            photo(tmp_path / name / f'images/{index}.png', channels=channels)
            mask(tmp_path / name / f'masks/{index}.png', [0, 1])
        data = understand(tmp_path / name)
        assert (data.channels, data.bits) == (channels, 8)
    doubt(data, 'fourth channel')
    photo(tmp_path / 'colour/images/1.png', channels=1)
    assert any('2 kinds' in text or 'several kinds' in text for text in understand(tmp_path / 'colour').notes)
    for index in range(4):
        mask(tmp_path / f'grey/images/{index}.png', list(range(0, 32000, 1000)), kind=np.uint16)
    data = understand(tmp_path / 'grey')
    assert (data.channels, data.bits, data.sizes) == (1, 16, (SIZE, SIZE, SIZE))
    photo(tmp_path / 'grey/images/1.png', channels=1)
    with pytest.raises(UserError, match='images of 8 and of 16 bits'):
        understand(tmp_path / 'grey')


def test_a_photograph_turned_by_its_metadata_has_its_turned_size(tmp_path: Path) -> None:
    masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'images/03.jpg'
    Image.open(path).resize((24, 32)).save(path, exif=exif)
    assert 'images/03.jpg' in images(understand(tmp_path))


def test_files_that_are_no_data_are_passed_over(tmp_path: Path) -> None:
    masks(tmp_path)
    write(tmp_path / '__MACOSX/images/._00.jpg', 'x')
    write(tmp_path / 'masks/.DS_Store', 'x')
    write(tmp_path / 'images/Thumbs.db', 'x')
    data = understand(tmp_path)
    assert len(images(data)) == 12
    assert any('not read: 3 hidden' in text for text in data.notes)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / 'flat/a.jpg')
    photo(tmp_path / 'flat/b.jpg')
    with pytest.raises(UserError, match='no annotations were recognised among the 2 images'):
        understand(tmp_path / 'flat')
    with pytest.raises(UserError, match='no annotations for object detection'):
        understand(tmp_path / 'flat', task='det')
    masks(tmp_path / 'one', number=1)
    with pytest.raises(UserError, match='1 annotated image can be used'):
        understand(tmp_path / 'one')
    for arguments in ({'task': 'pose'}, {'val_share': 1.0}):
        with pytest.raises(UserError, match='expected'):
            understand(tmp_path / 'flat', **arguments)
    with pytest.raises(UserError, match='does not exist'):
        understand(tmp_path / 'nowhere')


def test_file_names_are_classes_if_asked_for(tmp_path: Path) -> None:
    for index in range(4):
        photo(tmp_path / f'cat.{index}.jpg')
        photo(tmp_path / f'dog.{index}.jpg')
    assert understand(tmp_path, task='cls').classes == ('cat', 'dog')


def test_boxes_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    LAYOUTS['cvat_xml'](tmp_path / 'xml')
    path = tmp_path / 'xml/annotations.xml'
    path.write_text(path.read_text().replace('xtl="3"', 'xtl="left"', 1))
    doubt(understand(tmp_path / 'xml'), r'1 of 5 objects .*: annotations.xml: 0.jpg, shape 1;')
    LAYOUTS['csv_boxes'](tmp_path / 'csv')
    path = tmp_path / 'csv/labels.csv'
    path.write_text(path.read_text().replace('dog,3,', 'dog,x,', 1))
    doubt(understand(tmp_path / 'csv'), r'1 of 10 objects .*: labels.csv:2;')


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('labels.json', '{"images": 3, "annotations": [], "categories": {}}'),
        ('labels.json', '[1, [2], {"name": {"a": 1}}]'),
        ('classes.json', '{"names": [{"name": "a", "id": "x"}]}'),
        ('data.yaml', 'names: [a, [b]]\n\tx: {'),
        ('labels.csv', 'a,"b\n\0,c\n'),
        ('classes.txt', '\0\0\0'),
        ('train.txt', 'nothing\n'),
        ('a.xml', '<html><object/></html>'),
    ],
)
def test_texts_of_other_kinds_are_passed_over(tmp_path: Path, name: str, text: str) -> None:
    masks(tmp_path)
    write(tmp_path / name, text)
    assert understand(tmp_path).task == 'seg'


def test_ids_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    LAYOUTS['coco_one_file'](tmp_path)
    content = json.loads((tmp_path / 'labels.json').read_text())
    content['annotations'][0]['image_id'] = [1]
    (tmp_path / 'labels.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'labels.json has an id that is neither a number nor a text'):
        understand(tmp_path)
