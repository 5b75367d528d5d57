"""Which images train and which validate: as the folder or its lists say, or by a fixed seed."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from mmvit_ext.errors.user_error import UserError

from .data import Report, Sample, shown
from .index import Index
from .words import split_of

__all__ = ['read_lists', 'split_samples']

_NAMES = {'train': 'training', 'val': 'validation', 'test': 'test'}


def read_lists(
    index: Index, images: Sequence[str], report: Report, *, prefer: str, others: Sequence[str] = ()
) -> dict[str, str]:
    """The split of each image that text files such as ``train.txt`` list, one image a line, with or without its mask.

    Of several sets of lists, as PASCAL VOC has them, that in the folder ``prefer`` is used, else the longest; one
    with a few of the ``images`` only is not used. The lists may name ``others``, too, which have no annotation.
    """
    known, sets = {*images, *others}, defaultdict(dict)  # type: ignore[var-annotated]
    for path in index.texts_of('.txt', '.lst'):
        pure = PurePosixPath(path)
        stem = pure.stem.lower().replace('validation', 'val')
        stem = re.sub('[^a-z0-9]*(list|set|files?|ids?|split)[^a-z0-9]*', '', stem)
        split = split_of(pure.stem) or split_of(stem)
        if split is None or pure.stem.lower() == 'trainval':
            continue
        lines = [line.strip() for line in index.read(path).splitlines() if line.strip()]
        names = [line if index.is_picture(line) else line.split()[0] for line in lines]  # which may have spaces
        found = {image for name in names if (image := index.find(name, near=path, among=known))}
        if lines and len(found) >= 0.5 * len(set(names)):
            sets[str(pure.parent)].update(dict.fromkeys(found, split))
            missing = [name for name in names if not index.is_picture(name)]
            report.leave_out(
                missing, len(lines), f'images of the list {path} do not exist', 'add them or correct the list'
            )
    if not sets:
        return {}
    best = max(sets, key=lambda folder: (PurePosixPath(folder).name.lower() == prefer, len(sets[folder])))
    if len(sets[best].keys() & set(images)) * 2 <= len(images):
        return {}
    report.notes.append(f'splits: as the lists in {best if best != "." else index.root.name} say')
    return sets[best]


def split_samples(
    samples: Sequence[Sample], report: Report, *, seed: int, val_share: float
) -> dict[str, tuple[Sample, ...]]:
    """Training, validation and, where there is one, test samples."""
    splits: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        splits[sample.split or ''].append(sample)
    unsaid = splits.pop('', [])
    if unsaid and 'train' in splits:
        report.doubts.append(
            f'{len(unsaid)} images are in no split and are left out, for example {unsaid[0].image}: put them into a '
            'folder called train or val to use them'
        )
    if not splits or 'train' not in splits:
        if unsaid and splits:
            report.doubts.append(f'{len(unsaid)} images are in no split and train, for example {unsaid[0].image}')
        elif splits:
            report.doubts.append(f'there is no training split, only {" and ".join(splits)}: all images are split anew')
            unsaid = list(samples)
            splits.clear()
        splits['train'] = unsaid
    if 'val' not in splits and 'test' in splits:
        splits['val'] = splits.pop('test')
        report.doubts.append(
            'there is no validation split: the test split is used as one, so figures on it are not those of a test; '
            'put a part of the training images into a folder called val to keep the test apart'
        )
    if 'val' not in splits:
        splits['train'], splits['val'] = _by_seed(splits['train'], report, seed, val_share)
    order = [split for split in _NAMES if splits.get(split)]
    return {split: tuple(replace(sample, split=split) for sample in splits[split]) for split in order}


def _by_seed(samples: Sequence[Sample], report: Report, seed: int, share: float) -> tuple[list[Sample], list[Sample]]:
    """A part for validation: of each class where images have one; copies of one original stay together."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.image.partition('.rf.')[0]].append(sample)  # Roboflow's name for changed copies
    if len(groups) < 2:
        raise UserError(
            f'{len(groups)} annotated image can be used ({shown([sample.image for sample in samples])}): a model needs '
            'at least one to train on and another one to be validated on'
        )
    strata: dict[int | None, list[str]] = defaultdict(list)
    for name in sorted(groups):
        strata[groups[name][0].label].append(name)
    generator, chosen = random.Random(seed), set()
    for label in sorted(strata, key=str):
        names = strata[label]
        count = min(round(share * len(names)), len(names) - 1)
        chosen |= set(generator.sample(names, count))
    if not chosen:
        chosen = {generator.choice(sorted(groups))}
    report.doubts.append(
        f'there is no validation split: {share:.0%} of the images, drawn by the seed {seed}, validate; folders called '
        'train and val, or lists train.txt and val.txt, say it otherwise'
    )
    _tell_videos(samples, report)
    parts: Mapping[bool, list[Sample]] = {True: [], False: []}
    for name in sorted(groups):
        parts[name in chosen] += groups[name]
    return parts[False], parts[True]


def _tell_videos(samples: Sequence[Sample], report: Report) -> None:
    """Say that images look like frames of videos, which a random split puts on both sides."""
    starts = Counter(re.sub(r'[0-9]+$', '', str(PurePosixPath(sample.image).with_suffix(''))) for sample in samples)
    videos = [start for start, count in starts.items() if count >= 3]
    if samples[0].label is None and 2 <= len(videos) <= len(samples) / 5:
        report.doubts.append(
            f'images may be frames of {len(videos)} videos or series ({shown(videos)}), which then are in training and '
            'in validation: figures look better than they are; put whole series into folders train and val'
        )
