"""Estimates: what a schedule adds up to, iterations that really train, and rows that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvit_ext import machine
from mmvit_ext.errors import UserError
from mmvit_ext.machine import memory_limit, peak_bytes
from mmvit_ext.reproduce import read_ledger
from mmvit_ext.reproduce.estimate import Estimate, estimate_row, image_size, random_batch
from mmvit_ext.reproduce.training import TrainingPlan, plan_training
from tests.processes import run_program

ROOT = Path(__file__).parents[2]
LEDGER = read_ledger()


def an_estimate(**changes):
    plan = TrainingPlan(processes=2, per_process=3, base=16, options={}, changes=())
    fields = dict(
        row='a', device='d', plan=plan, size=(64, 64), images=16 * 160_000, seconds=0.5, needed=2**30, limit=2**31,
        fits=True,
    )  # fmt: skip
    return Estimate(**{**fields, **changes})


def test_the_schedule_is_added_up_from_images():
    """2,560,000 images in iterations of 6, half a second each."""
    estimate = an_estimate()
    assert estimate.iterations == 426_667
    assert estimate.hours() == pytest.approx(426_667 * 0.5 / 3600)
    assert estimate.hours(8) == pytest.approx(estimate.hours() / 8)
    text = '\n'.join(estimate.lines([4]))
    assert '59.3 hours' not in text  # from two days on, days are told
    assert 'on this machine: 2.5 days' in text
    assert 'on 4 of them: 14.8 hours' in text
    assert 'peak memory 1.0 GiB of 2.0 GiB' in text


def test_a_row_that_does_not_fit_is_told_so_plainly():
    text = '\n'.join(an_estimate(seconds=None, needed=None, fits=False, single=2**29).lines())
    assert 'DOES NOT FIT' in text
    assert 'one image per GPU needs 0.5 GiB' in text
    assert 'this machine' not in text
    text = '\n'.join(an_estimate(seconds=None, needed=None, fits=False).lines())
    assert 'Not even one image' in text


@pytest.mark.parametrize(
    ('name', 'library', 'size'),
    [
        ('p2t-mini_1xb8-450_mini-imagenet-96x96', 'mmpretrain', (96, 96)),
        ('segvit_vit-ti16_1xb8-600_mini-ade20k-192x192', 'mmseg', (192, 192)),
        ('mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco', 'mmdet', None),
    ],
)
def test_iterations_are_run_at_the_recipes_sizes(name, library, size, monkeypatch):
    pytest.importorskip(library)
    row = LEDGER.find(name)
    seen = []
    monkeypatch.setattr(
        'mmvit_ext.reproduce.estimate.random_batch',
        lambda cfg, images: seen.append(random_batch(cfg, images)) or seen[-1],
    )
    estimate = estimate_row(LEDGER, row, images_per_gpu=2, iterations=1, device='cpu')
    assert estimate.fits
    assert estimate.seconds > 0
    assert [tuple(image.shape[1:]) for image in seen[0]['inputs']] == [estimate.size] * 2
    if size is not None:
        assert estimate.size == size
    cfg = Config.fromfile(ROOT / row.config)
    loop = cfg.train_cfg
    images = loop.max_iters * cfg.auto_scale_lr.base_batch_size if 'max_iters' in loop else loop.max_epochs * 240
    assert estimate.images == images
    assert estimate.needed > 4 * 4 * 10**5  # weights, gradients and two moments of some hundred thousand parameters


def test_memory_that_is_not_there_is_noticed_without_taking_the_process_down():
    """In a process of its own, because the limit is the process's."""
    pytest.importorskip('mmseg')
    code = (
        'from mmvit_ext.reproduce import read_ledger, estimate\n'
        'estimate.RESERVE = 0.0\n'
        'ledger = read_ledger()\n'
        "row = ledger.find('segvit_vit-b16_8xb2-160k_ade20k-512x512')\n"
        "found = estimate.estimate_row(ledger, row, iterations=1, device='cpu')\n"
        "print('fits', found.fits, found.single)\n"
        "print('\\n'.join(found.lines()))\n"
    )
    done = run_program(code)
    assert 'fits False None' in done.stdout, done.stdout + done.stderr
    assert 'DOES NOT FIT' in done.stdout


def test_detectors_are_given_what_they_are_trained_on():
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(ROOT / LEDGER.find('mask-rcnn_p2t-ti_fpn_1x_coco').config)
    init_default_scope('mmdet')
    assert image_size(cfg) == (800, 1333)
    batch = random_batch(cfg, 1)
    (sample,) = batch['data_samples']
    boxes = sample.gt_instances.bboxes
    assert batch['inputs'][0].shape == (3, 800, 1333)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes <= torch.tensor([1333, 800, 1333, 800])).all()
    assert sample.gt_instances.masks.masks.shape[1:] == (800, 1333)
    assert all(mask.any() for mask in sample.gt_instances.masks.masks)


def test_every_recipe_tells_the_size_that_it_trains_on():
    for row in {(row.collection.name, row.task, row.mini): row for row in LEDGER.rows if row.config}.values():
        cfg = Config.fromfile(ROOT / row.config)
        if cfg.default_scope not in ('mmseg', 'mmdet', 'mmpretrain'):
            continue
        height, width = image_size(cfg)
        assert min(height, width) >= 32
        assert plan_training(cfg, 1).base == cfg.auto_scale_lr.base_batch_size


def test_peak_bytes_counts_what_is_alive_at_one_time():
    """Two tensors of 40,000 bytes at once, a third when both are gone."""

    def step():
        a, b = torch.empty(10_000), torch.empty(10_000)
        del a, b
        torch.empty(10_000)

    assert peak_bytes(step, torch.device('cpu')) == pytest.approx(80_000, abs=200)


def test_the_limit_of_this_machine_is_its_memory():
    limit = memory_limit(torch.device('cpu'))
    (total,) = (
        int(line.split()[1]) for line in Path('/proc/meminfo').read_text().splitlines() if line.startswith('MemTotal')
    )
    assert 2**30 < limit <= total * 1024


@pytest.mark.parametrize(('group', 'limit'), [('max', 2**31), (str(2**30), 2**30), (str(2**40), 2**31)])
def test_the_limit_of_a_container_is_the_lower_one(group, limit, monkeypatch):
    files = {'/proc/meminfo': ['MemFree: 7 kB', 'MemTotal:  2097152 kB'], '/sys/fs/cgroup/memory.max': [group]}
    monkeypatch.setattr(machine, '_lines', lambda path: files.get(path, []))
    assert memory_limit(torch.device('cpu')) == limit


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (
            dict(auto_scale_lr=None),
            r'lacks train_dataloader\.batch_size or auto_scale_lr\.base_batch_size: a row needs',
        ),
        (dict(dataset='unknown'), r'the number of images of unknown is not known: expected one of'),
    ],
)
def test_what_a_row_does_not_say_is_named(changes, sentence):
    with pytest.raises(UserError, match='states no image size: expected crop_size, img_scale or img_size'):
        image_size(Config({'default_scope': 'mmpretrain', 'img_scale': (8, 8), 'img_size': None}))
    row = LEDGER.find('p2t-mini_1xb8-450_mini-imagenet-96x96')
    if 'dataset' in changes:
        row, changes = replace(row, dataset=changes['dataset']), {}
        changes['train_cfg'] = dict(_delete_=True, by_epoch=True, max_epochs=3)
    with pytest.raises(UserError, match=sentence):
        estimate_row(LEDGER, row, gpus=1, iterations=1, device='cpu', cfg_options=changes)
