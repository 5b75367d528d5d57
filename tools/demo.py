#!/usr/bin/env python
"""Draw the mini dataset, train a small SegViT on it, evaluate it and predict images: what `make demo` runs.

    python tools/demo.py [--out demo_out] [--data data/mini] [--iterations N]

Every step is one of the commands that a user would type; it is printed before it runs.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs' / 'segvit' / 'segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py'
PHOTOGRAPHS = ('chelsea.png', 'coffee.png')
GOAL = 60.0
"""mIoU in per cent that the trained network has to reach on the held-out images."""
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


def write_photographs(folder: Path) -> None:
    """Two of the photographs that ship inside scikit-image."""
    import skimage

    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        with Image.open(Path(skimage.__file__).parent / 'data' / name) as photograph:
            photograph.convert('RGB').save((folder / name).with_suffix('.jpg'), quality=92)


def write_overview(data_root: Path, images: Sequence[Path], predictions: Path, target: Path) -> None:
    """One picture: a column for each image, with the image, its labels and what the network says."""
    import numpy as np
    from mmseg.datasets import ADE20KDataset

    from mmvit_ext.engine.drawing import draw_overlay

    meta, width, gap = ADE20KDataset.METAINFO, 220, 6
    columns = []
    for path in images:
        image = np.asarray(Image.open(path).convert('RGB'))
        truth = np.asarray(Image.open(data_root / 'annotations' / 'validation' / f'{path.stem}.png')).astype(int) - 1
        prediction = np.asarray(Image.open(predictions / f'{path.stem}.png')).astype(int)
        pictures = [Image.fromarray(image)]
        for labels in (truth, prediction):
            pictures.append(draw_overlay(image, labels, meta['classes'], meta['palette'], legend=False, opacity=0.6))
        columns.append([picture.resize((width, round(picture.height * width / picture.width))) for picture in pictures])
    height = max(picture.height for column in columns for picture in column)
    sheet = Image.new('RGB', (len(columns) * (width + gap) - gap, 3 * (height + gap) - gap), 'white')
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            sheet.paste(picture, (x * (width + gap), y * (height + gap) + (height - picture.height) // 2))
    sheet.save(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 when the network stays below the goal."""
    parser = argparse.ArgumentParser(description='Mini dataset, training, evaluation and predictions in one go.')
    parser.add_argument('--out', type=Path, default=Path('demo_out'), help='folder for everything (default: demo_out)')
    parser.add_argument('--data', type=Path, default=Path('data/mini'), help='mini dataset (default: data/mini)')
    parser.add_argument('--iterations', type=int, help='train for so many instead of what the config says')
    args = parser.parse_args(argv)
    start = time.monotonic()
    work_dir, pictures = args.out / 'training', args.out / 'pictures'
    shutil.rmtree(work_dir, ignore_errors=True)
    shutil.rmtree(pictures, ignore_errors=True)

    if args.data.exists():
        print(f'the mini dataset is there already: {args.data}')
    else:
        run('Draw the mini dataset', 'make_mini_dataset.py', args.data)
    data_root = args.data / 'ade' / 'ADEChallengeData2016'
    options = [f'data_root={data_root}']
    training_options = list(options)
    if args.iterations:
        training_options += [f'train_cfg.max_iters={args.iterations}', f'train_cfg.val_interval={args.iterations}']
    run('Train', 'train.py', CONFIG, '--work-dir', work_dir, '--seed', 0, '--cfg-options', *training_options)

    checkpoint = max(work_dir.glob('best_mIoU_iter_*.pth'), key=lambda path: path.stat().st_mtime)
    evaluation = run(
        'Evaluate on held-out images (classes that do not occur are left out of the table)',
        'test.py', CONFIG, checkpoint, '--work-dir', args.out / 'evaluation', '--cfg-options', *options,
    )  # fmt: skip
    figures = re.findall(r'mIoU: ([0-9.]+)', ''.join(evaluation))
    if not figures:
        raise SystemExit('error: the evaluation printed no mIoU.')
    miou = float(figures[-1])

    held_out = sorted((data_root / 'images' / 'validation').glob('*.jpg'))[:6]
    run(
        'Predict held-out images', 'predict.py', CONFIG, checkpoint, *held_out,
        '--out', pictures / 'held_out', '--save-mask',
    )  # fmt: skip
    write_overview(data_root, held_out, pictures / 'held_out' / 'labels', pictures / 'overview.png')
    write_photographs(args.out / 'photographs')
    run(
        'Predict real photographs', 'predict.py', CONFIG, checkpoint, args.out / 'photographs',
        '--out', pictures / 'photographs',
    )  # fmt: skip

    minutes = (time.monotonic() - start) / 60
    print(
        f'\nmIoU on the held-out images: {miou:.2f} (goal: {GOAL:.0f}; chance is below 15)\n'
        f'  time         {minutes:.1f} minutes\n'
        f'  dataset      {args.data}\n'
        f'  checkpoint   {checkpoint}\n'
        f'  logs         {work_dir}\n'
        f'  pictures     {pictures / "overview.png"} (from top: image, labels, prediction), and in\n'
        f'               {pictures / "held_out"} and {pictures / "photographs"}'
    )
    return 0 if miou >= GOAL or args.iterations else 1


if __name__ == '__main__':
    raise SystemExit(main())
