"""Further layouts of folders: what annotation tools export, and how people keep masks and tables themselves."""

import json
from pathlib import Path

from tests.folder_layouts import layout, mask, photo, write


@layout
def roboflow_masks(root: Path) -> None:
    for split, count in (('train', 4), ('valid', 2), ('test', 2)):
        for number in range(count):
            photo(root / split / f'im{number}_jpg.rf.{number}abc.jpg')
            mask(root / split / f'im{number}_jpg.rf.{number}abc_mask.png', [0, 1, 2])
        write(root / split / '_classes.csv', 'Pixel Value, Class\n0, ground\n1, road\n2, car\n')


@layout
def odd_names_and_formats(root: Path) -> None:
    for number in range(5):
        photo(root / f'Fotos été/Straße {number} ünï.webp')
        mask(root / f'Fotos été/Straße {number} ünï_mask.BMP', [0, 1, 2])


@layout
def links(root: Path) -> None:
    for number in range(5):
        photo(root.parent / f'elsewhere/{number}.JPG')
        mask(root / f'gt/{number}.PNG', [0, 1])
    (root / 'imgs').symlink_to(root.parent / 'elsewhere')


@layout
def masks_of_classes(root: Path) -> None:
    """As IDRiD: a mask for each lesion, with numbered folders."""
    for split, numbers in (('a. Training Set', range(4)), ('b. Testing Set', range(2))):
        for number in numbers:
            photo(root / f'1. Original Images/{split}/IDRiD_{number:02}.jpg')
            base = root / f'2. All Segmentation Groundtruths/{split}'
            mask(base / f'1. Microaneurysms/IDRiD_{number:02}_MA.tif', [255, 0, 0])
            mask(base / f'2. Haemorrhages/IDRiD_{number:02}_HE.tif', [0, 255, 0])


@layout
def masks_of_objects(root: Path) -> None:
    """As the Data Science Bowl 2018: a mask for each nucleus, called by chance."""
    for number in range(5):
        name = f'{number}f3a9c{number}'
        photo(root / f'stage1_train/{name}/images/{name}.png')
        for place in range(3):
            values = [0, 0, 0]
            values[place] = 255
            mask(root / f'stage1_train/{name}/masks/{place}b{number}cc.png', values)


@layout
def labelme_forms(root: Path) -> None:
    for number in range(5):
        photo(root / f'images/{number}.jpg')
        shapes = [
            {'label': 'leaf', 'points': [[1, 1], [20, 2], [10, 20]], 'shape_type': 'polygon'},
            {'label': 'dot', 'points': [[8, 8], [11, 8]], 'shape_type': 'circle'},
            {'label': 'tip', 'points': [[5, 5]], 'shape_type': 'point'},
        ]
        write(
            root / f'annotations/{number}.json', json.dumps({'shapes': shapes, 'imagePath': f'../images/{number}.jpg'})
        )


@layout
def supervisely(root: Path) -> None:
    write(root / 'meta.json', '{"classes": [{"title": "cat", "color": "#FF0000"}], "tags": []}')
    for number in range(5):
        photo(root / f'ds0/img/p{number}.jpg')
        points = {'exterior': [[1, 1], [20, 2], [10, 20]], 'interior': []}
        entry = {'classTitle': 'cat', 'geometryType': 'polygon', 'points': points}
        write(root / f'ds0/ann/p{number}.jpg.json', json.dumps({'objects': [entry]}))


@layout
def via(root: Path) -> None:
    content = {}
    for number in range(5):
        photo(root / f'{number}.jpg')
        form = {'name': 'rect', 'x': 3, 'y': 4, 'width': 9, 'height': 10}
        regions = [{'shape_attributes': form, 'region_attributes': {'kind': 'dog'}}]
        content[f'{number}.jpg123'] = {'filename': f'{number}.jpg', 'regions': regions}
    write(root / 'via_region_data.json', json.dumps(content))


@layout
def yolo_in_capitals(root: Path) -> None:
    for number in range(5):
        photo(root / f'Images/{number}.JPG')
        write(root / f'Labels/{number}.TXT', '0 0.5 0.5 0.2 0.25\n')
    write(root / 'Classes.TXT', 'cat\n')


@layout
def csv_corner_and_size(root: Path) -> None:
    for number in range(5):
        photo(root / f'i/{number}.jpg')
    write(root / 'boxes.csv', 'image,x,y,width,height,label\n' + ''.join(f'{n}.jpg,3,4,9,10,dog\n' for n in range(5)))


@layout
def csv_without_heading(root: Path) -> None:
    for number in range(5):
        photo(root / f'i/{number}.jpg')
    lines = [f'i/{number}.jpg,3,4,12,14,dog' for number in range(4)]
    write(root / 'annotations.csv', '\n'.join([*lines, 'i/4.jpg,,,,,']))
    write(root / 'classes.csv', 'dog,0\n')


@layout
def csv_one_cell(root: Path) -> None:
    """As the Global Wheat Detection: a box in one cell, and no class."""
    for number in range(5):
        photo(root / f'train/ab{number}.jpg')
    lines = [f'ab{number},32,24,"[3.0, 4.0, 9.0, 10.0]",x' for number in range(5)]
    write(root / 'train.csv', '\n'.join(['image_id,width,height,bbox,source', *lines]))


@layout
def open_images(root: Path) -> None:
    for number in range(5):
        photo(root / f'train/ab{number}.jpg')
    lines = [f'ab{number},xclick,Person,1,0.25,0.5,0.25,0.5' for number in range(5)]
    write(root / 'boxes.csv', '\n'.join(['ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax', *lines]))
