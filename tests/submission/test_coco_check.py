"""Archives for COCO's server: a correct one has no faults, and every way of breaking it is found and named."""

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('pycocotools')

from pycocotools import mask as mask_utils

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.submission.check import Fault, Report, check_archive

Entries = list[dict[str, Any]]

NAME = 'detections_test-dev2017_tiny-1.0_results'
SIZES = {139: (47, 61), 285: (53, 59), 632: (31, 37)}
CATEGORIES = {1: 'person', 13: 'stop sign', 90: 'toothbrush'}


def mask(number: int, seed: int = 0) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).random(SIZES[number]) < 0.3
    encoded = mask_utils.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def boxes() -> Entries:
    return [
        {'image_id': 139, 'category_id': 1, 'bbox': [3.5, 4.25, 20.0, 30.5], 'score': 0.75},
        {'image_id': 139, 'category_id': 90, 'bbox': [0.0, 0.0, 61.0, 47.0], 'score': 1.0},
        {'image_id': 285, 'category_id': 13, 'bbox': [10, 11, 12, 0], 'score': 0},
    ]


def masks() -> Entries:
    return [
        {
            'image_id': entry['image_id'],
            'category_id': entry['category_id'],
            'segmentation': mask(entry['image_id'], seed),
            'score': entry['score'],
        }
        for seed, entry in enumerate(boxes())
    ]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    images = [
        {'id': number, 'file_name': f'{number:012d}.jpg', 'height': height, 'width': width}
        for number, (height, width) in SIZES.items()
    ]
    categories = [{'id': number, 'name': name} for number, name in CATEGORIES.items()]
    path = tmp_path / 'image_info_test-dev2017.json'
    path.write_text(json.dumps({'images': images, 'categories': categories}))
    return path


def write(folder: Path, content: Any, name: str = NAME, member: str | None = None) -> Path:
    path = folder / f'{name}.zip'
    text = content if isinstance(content, str) else json.dumps(content)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(member or f'{name}.json', text)
    return path


def kinds(report: Report) -> list[str]:
    return [fault.kind for fault in report.faults]


@pytest.mark.parametrize('entries', [boxes(), masks()], ids=['bbox', 'segm'])
def test_a_correct_archive_has_no_faults(entries: Entries, annotations: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, entries), annotations=annotations)
    assert report.faults == []
    assert ('segm' if 'segmentation' in entries[0] else 'bbox') in report.content
    assert report.notes == ['1 of 3 images have no object']


def test_without_the_images_it_says_what_was_not_checked(tmp_path: Path) -> None:
    entries = [{**boxes()[0], 'image_id': 7, 'bbox': [0, 0, 5000, 5000]}]
    report = check_archive(write(tmp_path, entries))
    assert report.faults == []
    assert 'not checked' in report.notes[0]


def change(**values: Any) -> Callable[[Entries], Any]:
    """Replaces values of the middle entry; ``None`` removes one."""

    def apply(entries: Entries) -> Entries:
        for key, value in values.items():
            entries[1].pop(key, None)
            if value is not None:
                entries[1][key] = value
        return entries

    return apply


def change_mask(**values: Any) -> Callable[[Entries], Any]:
    def apply(entries: Entries) -> Entries:
        entries[1]['segmentation'].update(values)
        return entries

    return apply


# Kind of the fault, words of the reason, and how entries with boxes become wrong.
BROKEN_BOXES: dict[str, tuple[str, str, Callable[[Entries], Any]]] = {
    'unknown image': ('image', '7 is none of the 3 images', change(image_id=7)),
    'image id as text': ('image', "'139'", change(image_id='139')),
    'no image id': ('image', 'None', change(image_id=None)),
    'unknown category': ('category', '12, expected one of the 3', change(category_id=12)),
    'class index of 0': ('category', 'category_id is 0', change(category_id=0)),
    'score above 1': ('score', '1.5, expected 0 to 1', change(score=1.5)),
    'score below 0': ('score', '-0.25, expected 0 to 1', change(score=-0.25)),
    'score that is no number': ('score', 'nan', change(score=float('nan'))),
    'no score': ('score', 'None', change(score=None)),
    'box beyond the border': ('box', 'reaches out of the image of 61x47 pixels', change(bbox=[40, 4, 30, 5])),
    'box before the border': ('box', 'reaches out', change(bbox=[-4, 4, 10, 5])),
    'corners instead of a size': ('box', 'reaches out', change(bbox=[30, 30, 50, 40])),
    'negative width': ('box', 'has no area', change(bbox=[10, 10, -3, 5])),
    'box of three numbers': ('box', 'no list of four numbers', change(bbox=[1, 2, 3])),
    'infinite box': ('box', 'no numbers', change(bbox=[0, 0, float('inf'), 3])),
    'no box': ('box', 'None', change(bbox=None)),
    'entry that is a list': ('entry', 'is a list', lambda entries: [entries[0], [1, 2], entries[2]]),
    'the same entry twice': ('duplicate', 'equals entry 1', lambda entries: [*entries, copy.deepcopy(entries[1])]),
    'too many objects': (
        'too many objects',
        '101 objects, and the best 100',
        lambda entries: [{**entries[1], 'score': index / 100} for index in range(101)],
    ),
    'no object': ('no objects', 'empty', lambda entries: []),
    'entries by image': ('JSON file', "starts with '{", lambda entries: {'139': entries}),
    'cut off JSON': ('JSON file', 'cannot be read', lambda entries: json.dumps(entries)[:-5]),
}
BROKEN_MASKS: dict[str, tuple[str, str, Callable[[Entries], Any]]] = {
    'mask of another size': ('mask', '61x47 pixels (height x width), its image 47x61', change_mask(size=[61, 47])),
    'runs too long': (
        'mask',
        'its runs add up to 2867 pixels with 0 below zero, the mask has 2862',
        lambda entries: change_mask(
            counts=mask_utils.frPyObjects({'size': [47, 61], 'counts': [2860, 7]}, 47, 61)['counts'].decode()
        )(change_mask(size=[53, 54])(entries)),
    ),
    'runs too short': ('mask', 'its runs add up to 4 pixels', change_mask(counts='4')),
    'undecodable text': ('mask', 'cannot be decoded: it holds characters', change_mask(counts='4 ~')),
    'cut off text': ('mask', 'cannot be decoded: it is cut off', change_mask(counts='4d')),
    'run lengths that are not compressed': ('mask', 'counts is a list', change_mask(counts=[5, 3])),
    'size as text': ('mask', 'the size of the mask', change_mask(size='47x61')),
    'polygon': ('mask', 'is a polygon', change(segmentation=[[1, 1, 9, 1, 9, 9]])),
    'object without a mask': ('mask', 'None', change(segmentation=None)),
    'mask without counts': ('mask', 'expected an RLE mask', change(segmentation={'size': [47, 61]})),
    'the same mask twice': ('duplicate', 'equals entry 1', lambda entries: [*entries, copy.deepcopy(entries[1])]),
}
CASES = [
    *((boxes, name, *case) for name, case in BROKEN_BOXES.items()),
    *((masks, name, *case) for name, case in BROKEN_MASKS.items()),
]


@pytest.mark.parametrize(('make', 'name', 'kind', 'reason', 'apply'), CASES, ids=[case[1] for case in CASES])
def test_broken_content_is_refused_with_its_reason(
    make: Callable[[], Entries],
    name: str,
    kind: str,
    reason: str,
    apply: Callable[[Entries], Any],
    annotations: Path,
    tmp_path: Path,
) -> None:
    report = check_archive(write(tmp_path, apply(make())), annotations=annotations)
    assert (kind, True) in [(fault.kind, reason in fault.reason) for fault in report.faults], report.lines()
    # A mask whose size and runs are both changed is a fault twice; nothing else may be found beside it.
    assert set(kinds(report)) == {kind}


def test_every_fault_is_named_at_once(annotations: Path, tmp_path: Path) -> None:
    entries = boxes()
    entries[0].update(score=2, category_id=91, bbox=[0, 0, -1, -1])
    entries[2].update(image_id=1)
    report = check_archive(write(tmp_path, entries), annotations=annotations)
    assert [(fault.kind, fault.where) for fault in report.faults] == [
        ('category', 'entry 0 (image 139)'),
        ('score', 'entry 0 (image 139)'),
        ('box', 'entry 0 (image 139)'),
        ('image', 'entry 2 (image 1)'),
    ]


BAD_NAMES = [
    'results',
    'detections_test-dev2019_tiny_results',
    'detections_test-dev2017_results',
    'detections_test-dev2017__results',
    'detections_test-dev2017_tiny',
    'person_keypoints_test-dev2017_tiny_results',
    'detections_test-dev2017_tiny net_results',
]


@pytest.mark.parametrize('name', BAD_NAMES)
def test_a_name_that_the_server_does_not_take_is_refused(name: str, annotations: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, boxes(), name), annotations=annotations)
    assert kinds(report) == ['archive name']
    assert 'detections_SPLIT_NAME_results.zip' in report.faults[0].reason


def test_a_json_file_of_another_name_is_refused(annotations: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, boxes(), member='predictions.json'), annotations=annotations)
    assert report.faults == [Fault('JSON file', 'predictions.json', f'expected {NAME}.json, the name of the archive')]


def test_a_json_file_in_a_folder_is_refused(annotations: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, boxes(), member=f'results/{NAME}.json'), annotations=annotations)
    assert kinds(report) == ['folder']
    assert report.faults[0].where == f'results/{NAME}.json'


@pytest.mark.parametrize(
    ('member', 'kind'), [('readme.txt', 'extra file'), ('other.json', 'JSON file'), (f'{NAME}.json', 'duplicate file')]
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_more_than_one_file_is_refused(member: str, kind: str, annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path, boxes())
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(member, '[]')
    assert kind in kinds(check_archive(path, annotations=annotations))


def test_an_archive_without_a_json_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, boxes(), member='results.txt')
    report = check_archive(path)
    assert kinds(report) == ['extra file', 'JSON file']
    assert 'no JSON file' in report.faults[1].reason


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f'{NAME}.zip'
    path.write_text(json.dumps(boxes()))
    assert kinds(check_archive(path)) == ['archive']


def test_a_cut_off_archive_is_refused(annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path, boxes())
    path.write_bytes(path.read_bytes()[:-30])
    assert kinds(check_archive(path, annotations=annotations)) == ['archive']


def test_damaged_bytes_in_an_archive_are_found(annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path, boxes())
    content = bytearray(path.read_bytes())
    content[content.index(b'0.75')] = ord('1')  # the same length, another checksum
    path.write_bytes(content)
    report = check_archive(path, annotations=annotations)
    assert kinds(report) == ['JSON file']
    assert 'CRC' in report.faults[0].reason


def test_masks_with_boxes_are_told_to_be_sorted_by_the_boxes_area(annotations: Path, tmp_path: Path) -> None:
    entries = [{**with_mask, 'bbox': with_box['bbox']} for with_mask, with_box in zip(masks(), boxes(), strict=True)]
    report = check_archive(write(tmp_path, entries), annotations=annotations)
    assert report.faults == []
    assert '3 masks come with a box' in report.notes[0]


def test_a_long_list_of_one_kind_is_cut_short_unless_all_is_asked_for(annotations: Path, tmp_path: Path) -> None:
    entries = [{**boxes()[1], 'score': 2 + index} for index in range(17)]
    report = check_archive(write(tmp_path, entries), annotations=annotations)
    assert len(report.faults) == 17
    assert sum('score is' in line for line in report.lines()) == 5
    assert '  score: 12 more' in report.lines()
    assert sum('score is' in line for line in report.lines(complete=True)) == 17


@pytest.mark.parametrize(
    ('content', 'reason'),
    [('{', 'is no JSON file'), ('{"images": [{"id": 1}]}', 'no image list'), ('{"images": []}', 'lists no images')],
)
def test_an_image_list_that_is_none_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    annotations = tmp_path / 'list.json'
    annotations.write_text(content)
    with pytest.raises(UserError, match=reason):
        check_archive(write(tmp_path, boxes()), annotations=annotations)


def test_an_archive_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r'there is no archive absent\.zip'):
        check_archive('absent.zip')
