"""Tables, lists and names of users' folders: what is read, what is told, and which image each annotation belongs to."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmvit_ext.checks.before_run import BatchSize
from mmvit_ext.checks.every_sample import check_every_file
from mmvit_ext.config.overrides import apply_cfg_options
from mmvit_ext.datasets.folder import FolderData, understand, write_datasets
from mmvit_ext.datasets.list_dataset import ListSegDataset
from mmvit_ext.datasets.mini import make_mini_dataset
from mmvit_ext.datasets.seg_transforms import LoadSegAnnotations
from mmvit_ext.errors.user_error import UserError
from tests import folder_exports  # noqa: F401
from tests.datasets.test_folder import counts
from tests.datasets.test_folder_mistakes import doubt, masks
from tests.folder_layouts import LAYOUTS, coco, mask, photo, write


def labels(data: FolderData) -> dict[str, str]:
    """The class of each image."""
    return {s.image: data.classes[s.label or 0] for samples in data.splits.values() for s in samples}


def boxes(data: FolderData) -> dict[str, list[float]]:
    """The left edge of each object of an image."""
    return {s.image: [item.box[0] for item in s.objects] for samples in data.splits.values() for s in samples}


def test_an_index_column_is_no_column_of_images(tmp_path: Path) -> None:
    lines, table = [',image,label'], [',image,label,xmin,ymin,xmax,ymax']
    for row, number in enumerate(sorted(range(12), key=str)):
        photo(tmp_path / f'a/{number}.jpg')
        photo(tmp_path / f'b/{number}.jpg')
        lines.append(f'{row},{number}.jpg,{"odd" if number % 2 else "even"}')
        table.append(f'{row},{number}.jpg,cat,{number},1,20,9')
    write(tmp_path / 'a/labels.csv', '\n'.join(lines))
    write(tmp_path / 'b/boxes.csv', '\n'.join(table))
    found = labels(understand(tmp_path / 'a'))
    assert found == {f'{number}.jpg': 'odd' if number % 2 else 'even' for number in range(12)}
    assert boxes(understand(tmp_path / 'b')) == {f'{number}.jpg': [number] for number in range(12)}


@pytest.mark.parametrize('suffix', ['.jpg', ''])
def test_labels_that_are_numbers_are_no_images(tmp_path: Path, suffix: str) -> None:
    for number in range(1, 13):
        photo(tmp_path / f'{number}.jpg')
    write(tmp_path / 'a.csv', '\n'.join(['image,label', *(f'{n}{suffix},{n % 3 + 1}' for n in range(1, 13))]))
    assert labels(understand(tmp_path)) == {f'{n}.jpg': str(n % 3 + 1) for n in range(1, 13)}


def test_a_column_called_label_may_name_masks(tmp_path: Path) -> None:
    for number in range(10):
        photo(tmp_path / f'a/{number}.jpg')
        mask(tmp_path / f'b/{number}.png', [0, 1])
    write(tmp_path / 'a.csv', '\n'.join(['image,label', *(f'a/{n}.jpg,b/{n}.png' for n in range(10))]))
    assert understand(tmp_path).task == 'seg'


def test_a_missing_image_is_no_other_one_of_its_name(tmp_path: Path) -> None:
    for number in range(10):
        photo(tmp_path / f'cat/{number}.jpg')
        if number < 9:
            photo(tmp_path / f'dog/{number}.jpg')
    rows = [f'{kind}/{number}.jpg,{kind}' for kind in ('cat', 'dog') for number in range(10)]
    write(tmp_path / 'labels.csv', '\n'.join(['path,class', *rows]))
    data = understand(tmp_path)
    assert labels(data)['cat/9.jpg'] == 'cat'
    doubt(data, r'1 of 20 images of labels.csv do not exist: dog/9.jpg')


@pytest.mark.parametrize('name', ['cvat_xml', 'via'])
def test_a_second_file_for_the_same_images_adds_its_objects(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path)
    (path,) = [path for path in tmp_path.iterdir() if path.suffix in ('.xml', '.json')]
    path.with_stem('second').write_text(path.read_text().replace('dog', 'cat').replace('"x": 3', '"x": 5'))
    path.with_stem('copy').write_text(path.read_text())
    data = understand(tmp_path)
    assert data.classes == ('cat', 'dog')
    assert {len(edges) for edges in boxes(data).values()} == {2}


def test_a_table_of_boxes_is_read_beside_missing_images_and_with_any_heading_of_the_path(tmp_path: Path) -> None:
    for number in range(10):
        photo(tmp_path / f'a/p{number}.jpg')
        photo(tmp_path / f'b/p{number}.jpg')
    rows = [f'p{number}.jpg,3,4,12,14,{"bus" if number % 2 else "car"}' for number in range(10)]
    write(tmp_path / 'a/a.csv', '\n'.join(['file,xmin,ymin,xmax,ymax,class', 'missing.jpg,1,1,5,5,car', *rows]))
    data = understand(tmp_path / 'a')
    assert (data.task, data.classes) == ('det', ('bus', 'car'))
    doubt(data, r'1 images of a.csv are not there: missing.jpg')
    write(tmp_path / 'b/b.csv', '\n'.join(['name,x,y,w,h', *(f'p{number}.jpg,3,4,9,10' for number in range(10))]))
    assert understand(tmp_path / 'b').classes == ('object',)


@pytest.mark.parametrize('name', ['validation_list', 'validation_ids', 'val_split', 'valid'])
def test_lists_of_the_validation_images_are_known_by_their_names(tmp_path: Path, name: str) -> None:
    masks(tmp_path, number=10)
    write(tmp_path / 'train_list.txt', '\n'.join(f'{n:02}' for n in range(6)))
    write(tmp_path / f'{name}.txt', '\n'.join(f'{n:02}' for n in range(6, 10)))
    assert counts(understand(tmp_path)) == (6, 4, 0)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'utf-8-sig'])
def test_lists_name_files_with_spaces_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    for number in range(8):
        for end in ('', ' copy'):
            photo(tmp_path / f'images/my photo {number}{end}.jpg')
            mask(tmp_path / f'masks/my photo {number}{end}.png', [0, 1])
    for split, numbers in (('train', range(5)), ('val', range(5, 8))):
        lines = [f'images/my photo {number}{end}.jpg\r\n' for number in numbers for end in ('', ' copy')]
        (tmp_path / f'{split}.txt').write_bytes(''.join(lines).encode(encoding))
    assert counts(understand(tmp_path)) == (10, 6, 0)


def test_classes_that_mean_no_label_by_their_names_are_told(tmp_path: Path) -> None:
    LAYOUTS['labelme'](tmp_path / 'a')
    for path in (tmp_path / 'a').rglob('*3.json'):
        path.write_text(path.read_text().replace('leaf', 'edge'))
    doubt(understand(tmp_path / 'a', task='seg'), 'edge means "no label" by its name: call it otherwise')
    masks(tmp_path / 'b', [0, 1])
    write(tmp_path / 'b/classes.txt', 'background\nedge\n')
    with pytest.raises(UserError, match=r'a single class.*edge means "no label" by its name'):
        understand(tmp_path / 'b')


def test_images_of_several_labels_are_left_out_and_told(tmp_path: Path) -> None:
    rows = ['image,label']
    for number in range(12):
        photo(tmp_path / f'p{number}.jpg')
        rows.append(f'p{number}.jpg,{"cat" if number % 2 else "dog"}')
    write(tmp_path / 'a.csv', '\n'.join([*rows, 'p3.jpg,dog', 'p4.jpg,dog']))
    data = understand(tmp_path)
    assert 'p3.jpg' not in labels(data)
    assert labels(data)['p4.jpg'] == 'dog'
    doubt(data, r'1 of 12 images of a.csv have several labels: p3.jpg \(cat, dog\)')
    write(tmp_path / 'a.csv', '\n'.join([*rows, *(f'p{number}.jpg,cow' for number in range(12))]))
    with pytest.raises(UserError, match=r'12 of 12 images of a.csv have several labels.*leave one line for each'):
        understand(tmp_path)


def test_annotations_without_image_are_told(tmp_path: Path) -> None:
    LAYOUTS['labelme'](tmp_path)
    path = next(tmp_path.rglob('*.json'))
    path.with_stem('absent').write_text(path.read_text().replace(f'{path.stem}.jpg', 'absent.jpg'))
    doubt(understand(tmp_path), r'1 annotations have no image and are not used: .*absent.json')


def test_a_table_of_labels_beside_masks_is_told_and_does_not_refuse_them(tmp_path: Path) -> None:
    masks(tmp_path, number=10)
    rows = [f'{n:02}.jpg,{"sun" if n % 2 else "rain"}' for n in range(10)]
    write(tmp_path / 'metadata.csv', '\n'.join(['image,weather', *rows]))
    data = understand(tmp_path)
    assert data.task == 'cls'
    doubt(data, 'some images are called as masks are: pass --task seg')
    write(
        tmp_path / 'metadata.csv',
        '\n'.join(['image,label', *(row if n % 2 else row[:7] for n, row in enumerate(rows))]),
    )
    assert understand(tmp_path, task='seg').task == 'seg'
    with pytest.raises(UserError, match='have no label'):
        understand(tmp_path, task='cls')


def test_an_area_of_nothing_is_that_of_the_box(tmp_path: Path) -> None:
    for number in range(4):
        photo(tmp_path / f'{number}.jpg')
    coco(tmp_path / 'a.json', [f'{number}.jpg' for number in range(4)], masks=True)
    (tmp_path / 'a.json').write_text((tmp_path / 'a.json').read_text().replace('"area": 72', '"area": 0'))
    out = tmp_path / 'out'
    write_datasets(understand(tmp_path), out)
    assert {entry['area'] for entry in json.loads((out / 'train.json').read_text())['annotations']} == {72}


def test_class_names_that_are_twice_in_a_list_are_refused(tmp_path: Path) -> None:
    LAYOUTS['yolo'](tmp_path)
    for path in [path for path in tmp_path.rglob('*') if path.suffix in ('.yaml', '.names') or path.stem == 'classes']:
        path.unlink()
    write(tmp_path / 'classes.txt', 'cat\ncat\ndog\n')
    with pytest.raises(UserError, match='the class names have cat more than once'):
        understand(tmp_path)


@pytest.mark.parametrize(
    'text',
    [
        '[{"image": "a.jpg", "class": "cat"}]',
        '[{"file": "a.jpg", "source": "web"}]',
        '{"labels": [{"value": 0, "text": "x"}]}',
    ],
)
def test_files_that_stand_by_do_not_matter(tmp_path: Path, text: str) -> None:
    masks(tmp_path)
    write(tmp_path / 'labels.json', text)
    write(tmp_path / 'classes.csv', 'id,name\n0,ground\n1\n')
    assert understand(tmp_path).task == 'seg'


def test_masks_of_other_sizes_alone_are_an_error_with_the_reason(tmp_path: Path) -> None:
    photo(tmp_path / 'images/a.jpg')
    mask(tmp_path / 'masks/a.png', [0, 1], size=(10, 10))
    with pytest.raises(UserError, match=r'has a mask that can be used: .*masks are not of the size of their image'):
        understand(tmp_path)


@pytest.mark.parametrize('text', ['id,name\n1,water\n2,land\n', '1 water\n2 land\n'])
def test_files_of_class_names_are_read_beside_images_that_are_numbers(tmp_path: Path, text: str) -> None:
    for number in range(12):
        photo(tmp_path / f'images/{number}.jpg')
        mask(tmp_path / f'masks/{number}.png', [1, 2])
    write(tmp_path / ('classes.csv' if ',' in text else 'labels.txt'), text)
    assert understand(tmp_path).classes == ('water', 'land')


def test_a_list_of_images_without_suffix_holds_no_class_names(tmp_path: Path) -> None:
    masks(tmp_path, number=12)
    write(tmp_path / 'labels.txt', '\n'.join(f'{number:02} sunny' for number in range(12)))
    assert understand(tmp_path, task='seg').classes == ('class_0', 'class_1', 'class_2')


def test_masks_of_grey_with_transparency_are_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 7]], np.uint8)).convert('LA').save(tmp_path / 'a.png')
    sample = {'seg_map_path': str(tmp_path / 'a.png'), 'seg_fields': []}
    assert LoadSegAnnotations(values=[0, 7])(sample)['gt_seg_map'].tolist() == [[0, 1]]


def test_names_in_other_alphabets_tell_files_and_classes_apart(tmp_path: Path) -> None:
    for number, name in enumerate(('кот', 'пёс', '猫', 'é', 'ü')):
        photo(tmp_path / f'a/images/{name}.jpg')
        write(tmp_path / f'a/labels/{name}.txt', f'0 0.{number + 2} 0.5 0.2 0.25\n')
        photo(tmp_path / f'b/images/{name}.jpg')
        for kind, values in (('дорога', [0, 255]), ('небо', [255, 0])):
            mask(tmp_path / f'b/masks/{name}_{kind}.png', values)
    write(tmp_path / 'a/classes.txt', 'зверь\n')
    data = understand(tmp_path / 'a')
    assert data.classes == ('зверь',)
    assert round(boxes(data)['images/猫.jpg'][0], 3) == round((0.4 - 0.1) * 32, 3)
    assert understand(tmp_path / 'b', task='seg').classes == ('background', 'дорога', 'небо')


def test_images_beside_a_validation_folder_train(tmp_path: Path) -> None:
    rows = ['path,label']
    for number in range(12):
        place = f'val/{number}.jpg' if number < 4 else f'{number}.jpg'
        photo(tmp_path / place)
        rows.append(f'{place},{"cat" if number % 2 else "dog"}')
    write(tmp_path / 'a.csv', '\n'.join(rows))
    data = understand(tmp_path)
    assert counts(data) == (8, 4, 0)
    doubt(data, '8 images are in no split and train, for example 4.jpg')


def test_only_what_is_label_studios_is_set_aside(tmp_path: Path) -> None:
    for number in range(5):
        photo(tmp_path / f'{number}.jpg')
    coco(tmp_path / 'result.json', [f'{number}.jpg' for number in range(5)])
    write(tmp_path / 'project-1.json', '[{"annotations": [{"result": [{"value": {"rectanglelabels": ["cat"]}}]}]}]')
    data = understand(tmp_path)
    assert data.classes == ('cat', 'dog')
    doubt(data, r'^project-1.json is an export of Label Studio')


def test_the_name_of_a_folder_is_not_two_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks(tmp_path / 'photos')
    monkeypatch.chdir(tmp_path / 'photos/images')
    assert understand('..').root.name == 'photos'


def test_lists_of_masks_may_begin_with_excels_mark(tmp_path: Path) -> None:
    (tmp_path / 'a.csv').write_bytes('image,mask\na.jpg,a.png\n'.encode('utf-8-sig'))
    assert len(ListSegDataset('a.csv', data_root=str(tmp_path), metainfo={'classes': ('x',)}).load_data_list()) == 1


@pytest.mark.parametrize('options', [{'ignored': [7]}, {'tolerance': 2}, {'values': [0, 1], 'reduce_zero_label': True}])
def test_options_of_label_maps_without_effect_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r'go with values|no effect with values'):
        LoadSegAnnotations(**options)


def test_the_panoptic_numbers_of_the_mini_dataset_are_those_of_its_pictures(tmp_path: Path) -> None:
    make_mini_dataset(tmp_path / 'mini', images=4, size=(60, 80))
    for split in ('train', 'val'):
        content = json.loads((tmp_path / f'mini/coco/annotations/panoptic_{split}2017.json').read_text())
        for entry in content['annotations']:
            path = tmp_path / f'mini/coco/annotations/panoptic_{split}2017' / entry['file_name']
            pixels = np.array(Image.open(path)).astype(int)
            numbers = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
            areas = {segment['id']: segment['area'] for segment in entry['segments_info']}
            assert {n: int((numbers == n).sum()) for n in np.unique(numbers).tolist() if n} == areas


def test_another_data_root_moves_every_path_of_a_metric_and_no_other_folder() -> None:
    metric = {'type': 'CocoPanopticMetric', 'ann_file': 'data/coco/a.json', 'seg_prefix': 'data/coco/a/'}
    other = {'type': 'CocoMetric', 'ann_file': 'data/coco_small/a.json'}
    dataset = {'type': 'CocoPanopticDataset', 'data_root': 'data/coco'}
    cfg = Config({'data_root': 'data/coco', 'val_evaluator': [metric, other], 'val_dataloader': {'dataset': dataset}})
    apply_cfg_options(cfg, {'data_root': '/d'})
    assert cfg.val_evaluator[0].ann_file == '/d/a.json'
    assert cfg.val_evaluator[0].seg_prefix == '/d/a/'
    assert cfg.val_evaluator[1].ann_file == 'data/coco_small/a.json'


@pytest.mark.parametrize(('accumulated', 'remedy'), [(1, 'pass --auto-scale-lr to use 0.0025'), (2, 'set it to 0.005')])
def test_the_option_that_scales_the_rate_is_offered_where_it_gives_that_rate(accumulated: int, remedy: str) -> None:
    assert remedy in str(BatchSize(1, 8, accumulated, 32, 0.01, scaled=False).warning())


def test_class_folders_of_which_the_last_is_empty_are_checked(tmp_path: Path) -> None:
    pytest.importorskip('mmpretrain')
    for kind in ('a', 'b'):
        photo(tmp_path / kind / '0.jpg')
    (tmp_path / 'c').mkdir()
    dataset = {'type': 'CustomDataset', 'data_root': str(tmp_path), '_scope_': 'mmpretrain'}
    dataset['pipeline'] = [{'type': 'LoadImageFromFile'}]
    cfg = Config({'default_scope': 'mmpretrain', 'train_dataloader': {'dataset': dataset}})
    (report,) = check_every_file(cfg, ['train'], jobs=1, progress=False)
    assert any('1 classes never occur: c' in line for line in report.lines())
