"""Draws folders of tiny images and annotations in the layouts of public datasets and of annotation tools."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
LAYOUTS: dict[str, Callable[[Path], None]] = {}
"""A function for each layout that draws it into a folder."""


def layout(function: Callable[[Path], None]) -> Callable[[Path], None]:
    LAYOUTS[function.__name__] = function
    return function


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def photo(path: Path, size: tuple[int, int] = SIZE, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(path)


def blocks(values: list[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A map with an area of each value, from left to right."""
    return np.repeat(np.array(values), -(-size[1] // len(values)))[: size[1]][None].repeat(size[0], 0)


def mask(
    path: Path, values: list[int], size: tuple[int, int] = SIZE, palette: list[int] | None = None, kind: type = np.uint8
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(blocks(values, size).astype(kind))
    if palette:
        image = image.convert('P')
        image.putpalette(palette + [224, 224, 192] * (256 - len(palette) // 3))
    image.save(path)


def colours(path: Path, palette: list[tuple[int, int, int]], blur: bool = False) -> None:
    """A mask with an area of each colour, with blurred edges between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(palette, np.uint8)[blocks(list(range(len(palette))))])
    if blur:
        turned = image.rotate(8, Image.Resampling.BILINEAR, fillcolor=palette[0])
        image = turned.resize(SIZE[::-1], Image.Resampling.BILINEAR)
    image.save(path)


def coco(path: Path, names: list[str], *, masks: bool = False, categories: tuple[str, ...] = ('cat', 'dog')) -> None:
    images, annotations = [], []
    for number, name in enumerate(names, 7):
        images.append({'id': number, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]})
        for category in range(len(categories)):
            x, y = 2 + 10 * category, 3
            item = {'id': len(annotations) + 1, 'image_id': number, 'category_id': category + 1, 'iscrowd': 0}
            item |= {'bbox': [x, y, 8, 9], 'area': 72}
            if masks:
                item['segmentation'] = [[x, y, x + 8, y, x + 8, y + 9, x, y + 9]]
            annotations.append(item)
    content = {'images': images, 'annotations': annotations}
    content['categories'] = [{'id': number, 'name': name} for number, name in enumerate(categories, 1)]
    write(path, json.dumps(content))


def voc_xml(path: Path, name: str, objects: Mapping[str, tuple[int, int, int, int]]) -> None:
    items = ''.join(
        f'<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>'
        f'<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>'
        for kind, box in objects.items()
    )
    write(path, f'<annotation><filename>{name}</filename>{items}</annotation>')


BOXES = {'dog': (3, 4, 12, 14), 'cat': (1, 1, 8, 9)}
VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


@layout
def cityscapes(root: Path) -> None:
    for split, count in (('train', 3), ('val', 2), ('test', 2)):
        for number in range(count):
            for city in ('aachen', 'bochum'):
                stem = f'{split}/{city}/{city}_{number:06}_000019'
                photo(root / f'leftImg8bit/{stem}_leftImg8bit.png')
                if split != 'test':
                    mask(root / f'gtFine/{stem}_gtFine_labelIds.png', [0, 7, 11, 26, 33, 3])
                    mask(root / f'gtFine/{stem}_gtFine_instanceIds.png', [0, 7, 11, 26001, 26002], kind=np.uint16)
                    colours(root / f'gtFine/{stem}_gtFine_color.png', [(0, 0, 0), (128, 64, 128), (70, 70, 70)])
                    write(root / f'gtFine/{stem}_gtFine_polygons.json', '{"objects": []}')


@layout
def ade20k(root: Path) -> None:
    for split, count in (('training', 3), ('validation', 2)):
        for number in range(count):
            photo(root / f'images/{split}/ADE_{split[:5]}_{number:08}.jpg')
            mask(root / f'annotations/{split}/ADE_{split[:5]}_{number:08}.png', [0, 1, 2, 3])
    lines = ['Idx\tRatio\tTrain\tVal\tStuff\tName', '1\t0.1\t1\t1\t1\twall', '2\t0.1\t1\t1\t1\tbuilding;edifice']
    write(root / 'objectInfo150.txt', '\n'.join([*lines, '3\t0.1\t1\t1\t1\tsky']))
    write(root / 'sceneCategories.txt', 'ADE_train_00000000 alley\nADE_train_00000001 alley\n')


@layout
def voc_segmentation(root: Path) -> None:
    base = root / 'VOCdevkit/VOC2012'
    for number in range(6):
        stem = f'2007_{number:06}'
        photo(base / f'JPEGImages/{stem}.jpg')
        mask(base / f'SegmentationClass/{stem}.png', [0, 1, 3, 255], palette=VOC_PALETTE)
        mask(base / f'SegmentationObject/{stem}.png', [0, 1, 2, 255], palette=VOC_PALETTE)
    for split, numbers in (('train', range(4)), ('val', range(4, 6)), ('trainval', range(6))):
        write(base / f'ImageSets/Segmentation/{split}.txt', '\n'.join(f'2007_{number:06}' for number in numbers))


@layout
def voc_boxes(root: Path) -> None:
    for number in range(6):
        photo(root / f'JPEGImages/{number:06}.jpg')
        voc_xml(root / f'Annotations/{number:06}.xml', f'{number:06}.jpg', BOXES)
    for split, numbers in (('train', range(4)), ('val', range(4, 6)), ('trainval', range(6))):
        write(root / f'ImageSets/Main/{split}.txt', '\n'.join(f'{number:06}' for number in numbers))
        write(root / f'ImageSets/Main/cat_{split}.txt', '\n'.join(f'{number:06} -1' for number in numbers))


@layout
def camvid_segnet(root: Path) -> None:
    for split, count in (('train', 3), ('val', 2), ('test', 2)):
        names = [f'0001TP_{1000 + number:06}.png' for number in range(count)]
        for name in names:
            photo(root / split / name)
            mask(root / f'{split}annot' / name, [0, 1, 2])
        write(
            root / f'{split}.txt',
            ''.join(f'/SegNet/CamVid/{split}/{n} /SegNet/CamVid/{split}annot/{n}\n' for n in names),
        )


@layout
def camvid_colours(root: Path) -> None:
    for number in range(5):
        photo(root / f'701_StillsRaw_full/0001TP_{number:06}.png')
        colours(root / f'LabeledApproved_full/0001TP_{number:06}_L.png', [(0, 0, 0), (64, 0, 128), (128, 128, 128)])
    write(root / 'label_colors.txt', '64 0 128\tCar\n128 128 128\tSky\n0 0 0\t\tVoid\n')


@layout
def drive(root: Path) -> None:
    for split, word, numbers in (('training', 'training', (21, 22, 23)), ('test', 'test', (1, 2))):
        for number in numbers:
            photo(root / f'{split}/images/{number:02}_{word}.tif')
            mask(root / f'{split}/1st_manual/{number:02}_manual1.gif', [0, 255])
            mask(root / f'{split}/mask/{number:02}_{word}_mask.gif', [0, 255, 0])


@layout
def chase(root: Path) -> None:
    for number in range(1, 6):
        for side in 'LR':
            photo(root / f'Image_{number:02}{side}.jpg')
            mask(root / f'Image_{number:02}{side}_1stHO.png', [0, 1], kind=bool)
            mask(root / f'Image_{number:02}{side}_2ndHO.png', [0, 1, 0], kind=bool)


@layout
def pets_trimaps(root: Path) -> None:
    for number in range(1, 6):
        for breed in ('Abyssinian', 'beagle'):
            photo(root / f'images/{breed}_{number}.jpg')
            mask(root / f'annotations/trimaps/{breed}_{number}.png', [1, 2, 3])
    write(root / 'annotations/list.txt', '#Image CLASS-ID\nAbyssinian_1 1 1 1\nbeagle_1 2 1 1\n')


@layout
def nnunet(root: Path) -> None:
    for number in range(1, 6):
        photo(root / f'imagesTr/case_{number:03}_0000.png', channels=1)
        mask(root / f'labelsTr/case_{number:03}.png', [0, 1, 2])
    photo(root / 'imagesTs/case_009_0000.png', channels=1)


@layout
def deepglobe(root: Path) -> None:
    palette = [(0, 255, 255), (255, 255, 0), (0, 0, 0)]
    for number in range(101, 107):
        photo(root / f'train/{number}_sat.jpg')
        colours(root / f'train/{number}_mask.png', palette)
    for number in range(201, 204):
        photo(root / f'valid/{number}_sat.jpg')
    write(root / 'class_dict.csv', 'name,r,g,b\nurban_land,0,255,255\nagriculture_land,255,255,0\nunknown,0,0,0\n')


@layout
def carvana(root: Path) -> None:
    for car in ('fff9b3', '00087a'):
        for number in range(1, 4):
            photo(root / f'train/{car}_{number:02}.jpg')
            mask(root / f'train_masks/{car}_{number:02}_mask.gif', [0, 1], palette=[0, 0, 0, 255, 255, 255])


@layout
def csv_masks(root: Path) -> None:
    lines = ['id,picture,annotation,fold']
    for number in range(6):
        photo(root / f'a/{number}f.png')
        mask(root / f'b/{number}g.png', [0, 7, 11])
        lines.append(f'{number},a/{number}f.png,b/{number}g.png,{"train" if number < 4 else "valid"}')
    write(root / 'pairs.csv', '\n'.join(lines))


@layout
def coco_splits(root: Path) -> None:
    for split, count in (('train2017', 3), ('val2017', 2)):
        names = [f'{number:012}.jpg' for number in range(count)]
        for name in names:
            photo(root / split / name)
        coco(root / f'annotations/instances_{split}.json', names, masks=True)
        coco(root / f'annotations/person_keypoints_{split}.json', names, masks=True, categories=('person',))
        write(root / f'annotations/captions_{split}.json', '{"images": [{"id": 1}], "annotations": [{"caption": "x"}]}')


@layout
def coco_one_file(root: Path) -> None:
    names = [f'pic {number}.png' for number in range(10)]
    for name in names:
        photo(root / 'data' / name)
    coco(root / 'labels.json', names)


@layout
def roboflow_coco(root: Path) -> None:
    for split in ('train', 'valid', 'test'):
        names = [f'{split}{number}_jpg.rf.{number}abc.jpg' for number in range(2)]
        for name in names:
            photo(root / split / name)
        coco(root / split / '_annotations.coco.json', names)


@layout
def yolo(root: Path) -> None:
    for split, count in (('train', 3), ('val', 2)):
        for number in range(count):
            photo(root / f'images/{split}/im{number}.jpg')
            write(root / f'labels/{split}/im{number}.txt', '0 0.5 0.5 0.2 0.25\n2 0.25 0.5 0.5 0.5\n')
    photo(root / 'images/train/empty.jpg')
    write(root / 'labels/train/empty.txt', '')
    write(root / 'data.yaml', 'train: images/train\nval: images/val\nnc: 3\nnames: [cat, dog, cow]\n')


@layout
def yolo_polygons(root: Path) -> None:
    for split in ('train', 'valid'):
        for number in range(2):
            photo(root / f'{split}/images/{number}.jpg')
            write(root / f'{split}/labels/{number}.txt', '1 0.1 0.1 0.5 0.1 0.5 0.5\n')
    write(root / 'data.yaml', 'names:\n  0: cat\n  1: dog\n')


@layout
def darknet(root: Path) -> None:
    for number in range(6):
        photo(root / f'obj_train_data/frame_{number:06}.png')
        write(root / f'obj_train_data/frame_{number:06}.txt', '0 0.5 0.5 0.2 0.25\n')
    write(root / 'obj.names', 'cat\ndog\n')
    write(root / 'train.txt', '\n'.join(f'data/obj_train_data/frame_{number:06}.png' for number in range(6)))


@layout
def labelme(root: Path) -> None:
    for number in range(5):
        photo(root / f'{number}.jpg')
        shape = {'label': 'leaf', 'points': [[1, 1], [20, 2], [10, 20]], 'shape_type': 'polygon'}
        write(root / f'{number}.json', json.dumps({'shapes': [shape], 'imagePath': f'{number}.jpg', 'imageData': None}))


@layout
def imagenet(root: Path) -> None:
    for split, count in (('train', 3), ('val', 2)):
        for name in ('n01440764', 'n02102040'):
            for number in range(count):
                photo(root / f'{split}/{name}/{name}_{number}.JPEG')
    write(root / 'LOC_synset_mapping.txt', 'n01440764 tench, Tinca tinca\nn02102040 English springer, springer\n')


@layout
def class_folders(root: Path) -> None:
    for name in ('bus', 'train', 'car'):
        for number in range(5):
            photo(root / name / f'{number}.png')


@layout
def tiny_imagenet(root: Path) -> None:
    for name in ('n01', 'n02'):
        for number in range(3):
            photo(root / f'train/{name}/images/{name}_{number}.JPEG')
    lines = []
    for number in range(4):
        photo(root / f'val/images/val_{number}.JPEG')
        lines.append(f'val_{number}.JPEG\tn0{number % 2 + 1}\t0\t0\t62\t62')
    write(root / 'val/val_annotations.txt', '\n'.join(lines))


@layout
def csv_labels(root: Path) -> None:
    lines = ['image_id;label']
    for number in range(10):
        photo(root / f'pictures/{number:04}.jpg')
        lines.append(f'{number:04};{("rust", "scab")[number % 2]}')
    write(root / 'train.csv', '\n'.join(lines))


@layout
def csv_one_hot(root: Path) -> None:
    lines = ['image,MEL,NV,BCC']
    for number in range(9):
        photo(root / f'ISIC_{number:04}.jpg')
        lines.append(f'ISIC_{number:04},' + ','.join(str(float(number % 3 == place)) for place in range(3)))
    write(root / 'GroundTruth.csv', '\n'.join(lines))


@layout
def list_of_labels(root: Path) -> None:
    for split, count in (('train', 4), ('val', 2)):
        for number in range(count):
            photo(root / f'images/{split}_{number}.jpg')
        write(root / f'{split}.txt', ''.join(f'images/{split}_{number}.jpg {number % 2}\n' for number in range(count)))
    write(root / 'classes.txt', 'healthy\nsick\n')


@layout
def cvat_xml(root: Path) -> None:
    items = []
    for number in range(5):
        photo(root / f'images/{number}.jpg')
        box = '<box label="dog" xtl="3" ytl="4" xbr="12" ybr="14"/>'
        items.append(f'<image id="{number}" name="{number}.jpg" width="32" height="24">{box}</image>')
    write(root / 'annotations.xml', f'<annotations><version>1.1</version>{"".join(items)}</annotations>')


@layout
def csv_boxes(root: Path) -> None:
    lines = ['filename,width,height,class,xmin,ymin,xmax,ymax']
    for number in range(5):
        photo(root / f'images/{number}.jpg')
        lines += [f'{number}.jpg,32,24,dog,3,4,12,14', f'{number}.jpg,32,24,cat,1,1,8,9']
    write(root / 'labels.csv', '\n'.join(lines))


@layout
def json_labels(root: Path) -> None:
    for number in range(10):
        photo(root / f'imgs/{number}.jpg')
    write(root / 'labels.json', json.dumps({f'{number}.jpg': ('cat', 'dog')[number % 2] for number in range(10)}))


@layout
def intel(root: Path) -> None:
    for split, count in (('seg_train', 3), ('seg_test', 2)):
        for name in ('forest', 'sea'):
            for number in range(count):
                photo(root / f'{split}/{split}/{name}/{number}.jpg')
    for number in range(6):
        photo(root / f'seg_pred/seg_pred/{number}.jpg')


@layout
def kaggle(root: Path) -> None:
    lines = ['id,label']
    for number in range(10):
        photo(root / f'train/{number:05}.jpg')
        lines.append(f'{number:05}.jpg,{number % 2}')
        photo(root / f'test/{number + 100:05}.jpg')
    write(root / 'train.csv', '\n'.join(lines))
    write(root / 'sample_submission.csv', 'id,label\n' + '\n'.join(f'{number + 100:05}.jpg,0' for number in range(10)))


@layout
def uavid(root: Path) -> None:
    for split, first in (('train', 1), ('val', 20)):
        for sequence in range(first, first + 2):
            for number in range(2):
                base = root / f'uavid_{split}/seq{sequence}'
                photo(base / f'Images/{number:06}.png')
                colours(base / f'Labels/{number:06}.png', [(0, 0, 0), (128, 0, 0), (128, 64, 128)])


@layout
def bdd100k(root: Path) -> None:
    for split in ('train', 'val'):
        for number in range(3):
            photo(root / f'images/10k/{split}/{number}abc.jpg')
            mask(root / f'labels/sem_seg/masks/{split}/{number}abc.png', [0, 1, 2, 255])
            colours(root / f'labels/sem_seg/colormaps/{split}/{number}abc.png', [(1, 2, 3), (4, 5, 6)])


@layout
def mapillary(root: Path) -> None:
    for split in ('training', 'validation'):
        for number in range(3):
            photo(root / f'{split}/images/{number}.jpg')
            palette = [1, 2, 3, 4, 5, 6, 7, 8, 9]
            mask(root / f'{split}/labels/{number}.png', [0, 1, 2], palette=palette)
            mask(root / f'{split}/instances/{number}.png', [0, 256, 512], kind=np.uint16)
            colours(root / f'{split}/panoptic/{number}.png', [(1, 0, 0), (2, 0, 0)])
    names = [{'name': name, 'color': [n, n, n]} for n, name in enumerate(('bird', 'road', 'void'))]
    write(root / 'config.json', json.dumps({'labels': names}))


@layout
def other_words(root: Path) -> None:
    for split in ('Training', 'Validierung'):
        for number in range(3):
            photo(root / f'{split}/Bilder/IMG_{number}.JPG')
            mask(root / f'{split}/Etiketten/IMG_{number}.png', [0, 1])
