#!/usr/bin/env python
"""Draw the mini dataset, train a small network on it, evaluate it and predict images: `make demo` and `make demo-det`.

    python tools/demo.py [--out demo_out] [--data data/mini] [--iterations N]                # SegViT
    python tools/demo.py --task det [--out demo_out/det] [--data data/mini] [--epochs N]     # Mask R-CNN with P2T

Every step is one of the commands that a user would type; it is printed before it runs.
"""

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmvit_ext.files import open_image

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs'
PHOTOGRAPHS = ('chelsea.png', 'coffee.png')
MARKER = '.mmvit_ext_demo'
ABSENT_CLASS = re.compile(r'\|\s*nan\s*\|\s*nan\s*\|')


def run(step: str, tool: str, *arguments: object) -> list[str]:
    """Run one of the tools, show what it prints, and return it; end the demo if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    shown = ['python', f'tools/{tool}', *map(str, arguments)]
    print(f'\n== {step}\n$ {shlex.join(shown)}', flush=True)
    output = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if not ABSENT_CLASS.search(line):
                print(line, end='', flush=True)
    if process.returncode:
        raise SystemExit(f'error: "{step}" ended with exit code {process.returncode}; the reason stands above.')
    return output


def check_folders(out: Path, data: Path, data_root: Path) -> None:
    """End the demo where it would write among files of somebody else; otherwise mark the folder as one of the demo."""
    taken = [name for name in ('training', 'pictures', 'evaluation', 'photographs') if (out / name).exists()]
    if taken and not (out / MARKER).is_file():
        raise SystemExit(f'error: {out / taken[0]} was not written by the demo: choose another folder with --out.')
    if data.exists() and not data_root.is_dir():
        raise SystemExit(f'error: {data} is no mini dataset, it has no {data_root}: choose another folder with --data.')
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text('tools/demo.py writes into this folder.\n')


def set_aside(folder: Path) -> None:
    """Give a folder of an earlier run another name; nothing is removed."""
    if folder.exists():
        number = next(n for n in itertools.count(1) if not folder.with_name(f'{folder.name}.{n}').exists())
        print(f'{folder} is there already: it is kept as {folder.rename(folder.with_name(f"{folder.name}.{number}"))}')


def write_photographs(folder: Path) -> None:
    """Two of the photographs that ship inside scikit-image."""
    import skimage

    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        with open_image(Path(skimage.__file__).parent / 'data' / name) as photograph:
            photograph.convert('RGB').save((folder / name).with_suffix('.jpg'), quality=92)


def write_overview(columns: Sequence[Sequence[Image.Image]], titles: Sequence[str], target: Path) -> None:
    """A table with a column of pictures for each image, and a title for each row."""
    from mmvit_ext.inference.sheets import draw_table

    width = 660 // len(titles)
    shown = [
        [picture.resize((width, round(picture.height * width / picture.width))) for picture in column]
        for column in columns
    ]
    rows = [(title, [column[index] for column in shown]) for index, title in enumerate(titles)]
    draw_table(rows, [''] * len(columns)).save(target)


def segmentation_overview(data_root: Path, images: Sequence[Path], predictions: Path) -> list[list[Image.Image]]:
    """A column for each image: the image, its labels and what the network says."""
    import numpy as np
    from mmseg.datasets import ADE20KDataset

    from mmvit_ext.inference.drawing import draw_overlay

    meta = ADE20KDataset.METAINFO
    columns = []
    for path in images[:6]:
        image = np.asarray(open_image(path).convert('RGB'))
        truth = np.asarray(open_image(data_root / 'annotations' / 'validation' / f'{path.stem}.png')).astype(int) - 1
        prediction = np.asarray(open_image(predictions / 'labels' / f'{path.stem}.png')).astype(int)
        column = [Image.fromarray(image)]
        for labels in (truth, prediction):
            column.append(draw_overlay(image, labels, meta['classes'], meta['palette'], legend=False, opacity=0.6))
        columns.append(column)
    return columns


def detection_overview(data_root: Path, images: Sequence[Path], predictions: Path) -> list[list[Image.Image]]:
    """A column for each image: its labelled objects and what the network says."""
    import numpy as np
    from mmdet.datasets import CocoDataset
    from pycocotools import mask as run_lengths

    from mmvit_ext.inference.drawing import draw_instances

    meta = CocoDataset.METAINFO
    content = json.loads((data_root / 'annotations' / 'instances_val2017.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    records = {record['file_name']: record for record in content['images']}
    columns = []
    for path in images[:3]:
        image = np.asarray(open_image(path).convert('RGB'))
        record = records[path.name]
        objects = [entry for entry in content['annotations'] if entry['image_id'] == record['id']]
        masks = []
        for entry in objects:
            shape, size = entry['segmentation'], (record['height'], record['width'])
            runs = run_lengths.frPyObjects(shape, *size)
            masks.append(run_lengths.decode(run_lengths.merge(runs) if isinstance(shape, list) else runs).astype(bool))
        truth = draw_instances(
            image,
            np.array([(x, y, x + width, y + height) for x, y, width, height in (entry['bbox'] for entry in objects)]),
            [meta['classes'].index(names[entry['category_id']]) for entry in objects],
            meta['classes'],
            meta['palette'],
            masks=np.stack(masks),
        )
        columns.append([truth, open_image(predictions / 'overlays' / f'{path.stem}.png').convert('RGB')])
    return columns


@dataclass(frozen=True)
class Task:
    """What one of the demos trains, and what is shown of it.

    Args:
        config: The config's path below ``configs``.
        data_root: The dataset below the mini dataset.
        images: Folder of the held-out images below the dataset.
        length: Unit of the training's length, as its argument is named, and the key that holds it in ``train_cfg``.
        best: Pattern of the best checkpoint's name.
        evaluation: Title of that step.
        figures: The figures of the evaluation, name and pattern; the first one has to reach the goal.
        unit: Number by which figures are multiplied to be in per cent.
        goal: In per cent.
        remark: What the goal is to be compared with.
        predict_options: Further arguments for the predictions.
        overview: The pictures of each image.
        rows: What they show.
    """

    config: str
    data_root: str
    images: str
    length: tuple[str, str]
    best: str
    evaluation: str
    figures: Mapping[str, str]
    unit: float
    goal: float
    remark: str
    predict_options: tuple[str, ...]
    overview: Callable[[Path, Sequence[Path], Path], list[list[Image.Image]]]
    rows: Sequence[str]


TASKS = {
    'seg': Task(
        config='segvit/segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py',
        data_root='ade/ADEChallengeData2016',
        images='images/validation',
        length=('iterations', 'max_iters'),
        best='best_mIoU_iter_*.pth',
        evaluation='Evaluate on held-out images (classes that do not occur are left out of the table)',
        figures={'mIoU': r'mIoU: ([0-9.]+)'},
        unit=1,
        goal=60,
        remark='chance is below 15',
        predict_options=('--save-mask',),
        overview=segmentation_overview,
        rows=('image', 'labels', 'prediction'),
    ),
    'det': Task(
        config='p2t/mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco.py',
        data_root='coco',
        images='val2017',
        length=('epochs', 'max_epochs'),
        best='best_coco_bbox_mAP_epoch_*.pth',
        evaluation='Evaluate on held-out images',
        figures={
            'box AP50': r'coco/bbox_mAP_50: (-?[0-9.]+)',
            'box AP': r'coco/bbox_mAP: (-?[0-9.]+)',
            'mask AP50': r'coco/segm_mAP_50: (-?[0-9.]+)',
            'mask AP': r'coco/segm_mAP: (-?[0-9.]+)',
        },
        unit=100,
        goal=30,
        remark='a network that has learnt nothing is at 0',
        predict_options=('--score-threshold', '0.5'),
        overview=detection_overview,
        rows=('labels', 'prediction'),
    ),
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with the folder that belongs to the task and ``length``, the wanted length of the training."""
    parser = argparse.ArgumentParser(description='Mini dataset, training, evaluation and predictions in one go.')
    parser.add_argument('--task', choices=sorted(TASKS), default='seg', help='segmentation (default) or detection')
    parser.add_argument('--out', type=Path, help='folder for everything (default: demo_out, for det demo_out/det)')
    parser.add_argument('--data', type=Path, default=Path('data/mini'), help='mini dataset (default: data/mini)')
    parser.add_argument('--iterations', type=int, help='seg: train for so many instead of what the config says')
    parser.add_argument('--epochs', type=int, help='det: train for so many instead of what the config says')
    args = parser.parse_args(argv)
    unit = TASKS[args.task].length[0]
    other = {'iterations': 'epochs', 'epochs': 'iterations'}[unit]
    if getattr(args, other) is not None:
        parser.error(f'--{other} is not for --task {args.task}: give --{unit}')
    args.length = getattr(args, unit)
    args.out = args.out or Path('demo_out' if args.task == 'seg' else f'demo_out/{args.task}')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 when the network stays below the goal."""
    args = parse_arguments(argv)
    task = TASKS[args.task]
    config = CONFIGS / task.config
    start = time.monotonic()
    work_dir, pictures = args.out / 'training', args.out / 'pictures'
    data_root = args.data / task.data_root
    check_folders(args.out, args.data, data_root)
    for folder in (work_dir, pictures):
        set_aside(folder)

    if args.data.exists():
        print(f'the mini dataset is there already: {args.data}')
    else:
        run('Draw the mini dataset', 'make_mini_dataset.py', args.data)
    options = [f'data_root={data_root}']
    training_options = list(options)
    if args.length:
        training_options += [f'train_cfg.{task.length[1]}={args.length}', f'train_cfg.val_interval={args.length}']
    run('Train', 'train.py', config, '--work-dir', work_dir, '--seed', 0, '--cfg-options', *training_options)

    checkpoint = max(work_dir.glob(task.best), key=lambda path: path.stat().st_mtime)
    evaluation = run(
        task.evaluation,
        'test.py', config, checkpoint, '--work-dir', args.out / 'evaluation', '--cfg-options', *options,
    )  # fmt: skip
    figures = {}
    for name, pattern in task.figures.items():
        found = re.findall(pattern, ''.join(evaluation))
        if not found:
            raise SystemExit(f'error: the evaluation printed no {name}.')
        figures[name] = float(found[-1]) * task.unit

    held_out = sorted((data_root / task.images).glob('*.jpg'))[:6]
    run(
        'Predict held-out images', 'predict.py', config, checkpoint, *held_out,
        '--out', pictures / 'held_out', *task.predict_options,
    )  # fmt: skip
    write_overview(task.overview(data_root, held_out, pictures / 'held_out'), task.rows, pictures / 'overview.png')
    write_photographs(args.out / 'photographs')
    run(
        'Predict real photographs', 'predict.py', config, checkpoint, args.out / 'photographs',
        '--out', pictures / 'photographs', *task.predict_options,
    )  # fmt: skip

    minutes = (time.monotonic() - start) / 60
    first = next(iter(figures))
    print('\nOn the held-out images, in per cent:')
    for name, figure in figures.items():
        print(f'  {name:<12} {figure:.2f}' + (f' (goal: {task.goal:.0f}; {task.remark})' if name == first else ''))
    print(
        f'  time         {minutes:.1f} minutes\n'
        f'  dataset      {args.data}\n'
        f'  checkpoint   {checkpoint}\n'
        f'  logs         {work_dir}\n'
        f'  pictures     {pictures / "overview.png"} (from top: {", ".join(task.rows)}), and in\n'
        f'               {pictures / "held_out"} and {pictures / "photographs"}'
    )
    return 0 if figures[first] >= task.goal or args.length else 1


if __name__ == '__main__':
    raise SystemExit(main())
