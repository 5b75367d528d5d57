"""Pictures of superpixels: label maps against loops, lines where superpixels meet, tables, and the hook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

pytest.importorskip('mmcv')

from mmengine.structures import BaseDataElement

from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.superpixel_hook import SuperpixelVisualizationHook
from mmvit_ext.interpret.inputs import picture_of_inputs
from mmvit_ext.interpret.superpixels import (
    HALO,
    LINE,
    Superpixels,
    colour_superpixels,
    draw_boundaries,
    draw_means,
    draw_montage,
    draw_table,
    enlarged,
    find_spformer,
    superpixels_of_inputs,
)
from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.superpixel_extractor import SuperpixelExtractor
from tests.models.superpixels.test_superpixel_maps import similarity_of, slow_fine_association

ARCH = {'embed_dims': 12, 'depths': (1, 1), 'num_heads': 3, 'sca_heads': 2}


def found_in(features=(5, 7), image=(10, 14), input_size=(10, 14), cell=3, steps=(2, 3)):
    similarities = [similarity_of(features, cell, heads=2, seed=seed)[0] for seed in range(steps[0] * steps[1])]
    similarity = torch.stack(similarities).unflatten(0, steps)
    picture = np.random.default_rng(0).integers(0, 255, (*image, 3), dtype=np.uint8)
    return Superpixels(picture, similarity, cell, 2, input_size)


def slow_labels(found, step, size):
    """Label maps of all heads, pixel by pixel; the picture is no larger than the network's input."""
    similarity = found.similarity[step][None]
    merged = torch.cat([similarity, similarity.sum(1, keepdim=True) / 2**0.5], 1)
    association = slow_fine_association(merged, found.cell_size, found.pixel_stride)[0]
    cell, columns = found.cell_size * found.pixel_stride, found.grid[1]
    labels = np.zeros((3, *size), dtype=int)
    for Y in range(size[0]):
        for X in range(size[1]):
            y = int((Y + 0.5) * found.input_size[0] / size[0])
            x = int((X + 0.5) * found.input_size[1] / size[1])
            for head in range(3):
                n = int(association[head, :, y, x].argmax())
                labels[head, Y, X] = (y // cell + n // 3 - 1) * columns + x // cell + n % 3 - 1
    return labels


@pytest.mark.parametrize(('image', 'input_size'), [((10, 14), (10, 14)), ((9, 13), (9, 13)), ((7, 5), (9, 14))])
def test_label_maps_are_the_largest_associations_of_every_module_iteration_and_head(image, input_size):
    found = found_in(image=image, input_size=input_size)
    labels = found.labels()
    assert labels.shape == (2, 3, 3, *image)
    for module in range(2):
        for iteration in range(3):
            assert np.array_equal(labels[module, iteration], slow_labels(found, (module, iteration), image))


def test_a_larger_picture_gets_finer_lines_and_not_coarser_ones():
    """Labels at three times the size agree with the small ones in the middle of their pixels, in most places."""
    found = found_in(features=(12, 12), image=(24, 24), input_size=(24, 24))
    small, large = found.labels(), found.labels((72, 72))
    assert (large[..., 1::3, 1::3] == small).mean() > 0.95
    blocks = large.reshape(*large.shape[:3], 24, 3, 24, 3).swapaxes(-3, -2).reshape(*large.shape[:3], 24, 24, 9)
    assert (blocks != blocks[..., :1]).any(-1).mean() > 0.05  # lines run through small pixels


def test_a_map_beyond_the_finest_repeats_pixels(monkeypatch):
    found = found_in(image=(40, 56))
    monkeypatch.setattr('mmvit_ext.interpret.superpixels.FINEST', 4 * 10 * 14)
    half = found.labels((20, 28))
    assert np.array_equal(found.labels(), half.repeat(2, -1).repeat(2, -2))
    monkeypatch.setattr('mmvit_ext.interpret.superpixels.FINEST', 1)
    assert np.array_equal(found.labels((20, 28)), found.labels((10, 14)).repeat(2, -1).repeat(2, -2))


def test_names_count_from_one_in_the_order_of_running():
    found = found_in()
    assert found.heads == ['head 1', 'head 2', 'merged']
    assert found.steps == [f'SCA {m}, iteration {i}' for m in (1, 2) for i in (1, 2, 3)]
    assert found.grid == (2, 3)


@torch.no_grad()
def test_a_backbone_tells_the_superpixels_of_all_its_modules():
    torch.manual_seed(0)
    backbone = SPFormer(ARCH, img_size=32).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    inputs = torch.randn(1, 3, 48, 32)
    image = np.zeros((37, 29, 3), np.uint8)
    found = superpixels_of_inputs(backbone, inputs, image, (45, 31))
    history = backbone.run(inputs)[1]
    assert found.similarity.shape == (2, 2, 2, 9, 12, 8)
    assert torch.equal(found.similarity[1, 0], history[1][0][0])
    assert (found.input_size, found.cell_size, found.pixel_stride) == ((45, 31), 4, 4)
    assert found.labels().shape == (2, 2, 3, 37, 29)


def test_a_model_without_superpixels_is_refused():
    backbone = SPFormer(ARCH, img_size=32)
    assert find_spformer(SuperpixelExtractor(backbone), 'c.py') is backbone
    assert find_spformer(backbone, 'c.py') is backbone
    model = nn.Module()
    model.backbone = nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match=r'c\.py has the backbone Conv2d and no superpixels to show'):
        find_spformer(model, 'c.py')


# Pictures


def test_lines_run_where_superpixels_meet_and_nowhere_else():
    labels = np.zeros((9, 11), dtype=int)
    labels[:, 6:] = 1
    labels[5:, 6:] = 2
    image = np.full((9, 11, 3), 200, np.uint8)
    drawn = np.array(draw_boundaries(image, labels))
    line = (drawn == LINE).all(-1)
    expected = np.zeros((9, 11), dtype=bool)
    expected[:, 5] = True
    expected[4, 6:] = True
    assert np.array_equal(line, expected)
    changed = (drawn != image).any(-1)
    assert changed[:, 4:7].all()
    assert not changed[:, :4].any()
    assert not changed[:3, 8:].any()
    dark = drawn[0, 4]
    assert (dark < 200).all()
    assert (dark > np.array(HALO)).all()


def test_a_wide_line_is_as_wide_as_asked():
    labels = np.repeat(np.arange(2), 10)[None].repeat(7, 0)
    drawn = np.array(draw_boundaries(np.zeros((7, 20, 3), np.uint8), labels, width=3))
    assert (drawn == LINE).all(-1).sum(1).tolist() == [3] * 7


def test_image_and_labels_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r'same size, got \(3, 4\) and \(4, 3\)'):
        draw_boundaries(np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3), int))


def test_a_superpixel_is_painted_in_the_mean_of_its_pixels():
    image = np.array([[[0, 10, 20], [10, 20, 30], [90, 90, 90]]], np.uint8)
    labels = np.array([[3, 3, 7]])
    assert np.array(draw_means(image, labels)).tolist() == [[[5, 15, 25], [5, 15, 25], [90, 90, 90]]]


def test_neighbouring_superpixels_have_different_colours():
    """Of two superpixels that can touch, at most two apart in a row or column plus their windows, none share one."""
    columns = 9
    labels = np.arange(9 * columns).reshape(9, columns)
    colours = np.array(colour_superpixels(labels, columns)).astype(int)
    for dy in range(4):
        for dx in range(-3, 4):
            if (dy, dx) > (0, 0):
                one = colours[: 9 - dy, max(0, -dx) : columns - max(0, dx)]
                other = colours[dy:, max(0, dx) : columns + min(0, dx)]
                assert (one != other).any(-1).all(), (dy, dx)


def test_a_small_image_is_enlarged_by_a_whole_number():
    picture, labels = enlarged(found_in(), 40)
    assert picture.shape == (30, 42, 3)
    assert labels.shape == (2, 3, 3, 30, 42)
    assert enlarged(found_in(), 14)[0].shape == (10, 14, 3)


def test_a_montage_has_a_row_per_head_and_a_column_per_step():
    found = found_in(steps=(1, 2))
    montage = np.array(draw_montage(found, edge=140, title='iteration 7'))
    image = np.array(Image.fromarray(found.image).resize((140, 100), Image.Resampling.BICUBIC))
    places = [
        (y, x)
        for y in range(montage.shape[0] - 99)
        for x in np.flatnonzero((montage[y, :, :] == image[0, 0]).all(-1))
        if np.array_equal(montage[y : y + 100, x : x + 140], image)
    ]
    assert len(places) == 3  # one per head and one for all
    assert len({x for _, x in places}) == 1
    labels = found.labels((100, 140)).reshape(2, 3, 100, 140)
    for head, (y, x) in enumerate(sorted(places)):
        lefts = []
        for drawn in (*(draw_boundaries(image, step[head]) for step in labels), draw_means(image, labels[-1][head])):
            pixels = np.array(drawn)
            (left,) = [
                left
                for left in range(x + 140, montage.shape[1] - 139)
                if np.array_equal(montage[y : y + 100, left : left + 140], pixels)
            ]
            lefts.append(left)
        assert lefts == sorted(lefts)


def test_headings_of_a_table_are_not_cut():
    table = np.array(draw_table([('a long heading of a row', [None])], ['a heading wider than its picture'], (16, 16)))
    border = np.concatenate([table[0], table[-1], table[:, 0], table[:, -1]])
    assert (border == 255).all()
    with_footer = draw_table([('a', [None])], ['b'], (16, 16), 'a footer that is wider than the whole table by far')
    assert np.array(with_footer)[:, -1].min() == 255
    assert with_footer.width > table.shape[1] - 100


def test_inputs_of_the_network_become_rgb_pictures():
    inputs = torch.tensor([[[1.4]], [[260.0]], [[-3.0]]])
    assert picture_of_inputs(inputs).tolist() == [[[0, 255, 1]]]
    assert picture_of_inputs(inputs, 'rgb').tolist() == [[[1, 255, 0]]]


# The hook


class Images(Dataset):
    """Images of one colour in several sizes, as a data loader of mmseg would give them."""

    def __init__(self, count: int = 3) -> None:
        self.count, self.metainfo = count, {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs = torch.randint(0, 255, (3, 32, 48 + 16 * index), generator=torch.Generator().manual_seed(index))
        return {'inputs': inputs.float(), 'data_samples': BaseDataElement(metainfo={'img_path': f'x/photo{index}.jpg'})}


class Trained(SuperpixelExtractor):
    """Something that has a loss."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode)
        assert self.training
        assert not self.backbone.stem.training  # frozen
        return {'loss': self.backbone(torch.stack(list(inputs)))[-1].square().mean()}


def run_training(tmp_path: Path, hook: dict[str, Any], lr: float = 0.01, **changed: Any) -> Path:
    backbone = SPFormer(ARCH, img_size=32, frozen_stages=0)
    collate = dict(type='pseudo_collate')
    loader = dict(batch_size=1, num_workers=0, dataset=Images(), sampler=dict(type='DefaultSampler', shuffle=False))
    settings: dict[str, Any] = dict(
        model=Trained(backbone, dict(type='ImgDataPreprocessor')),
        work_dir=str(tmp_path),
        train_dataloader=dict(loader, collate_fn=collate),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=lr)),
        val_dataloader=dict(loader, collate_fn=collate),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([]),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', log_metric_by_epoch=False)),
        visualizer=dict(type='Visualizer', name=tmp_path.name, vis_backends=[dict(type='LocalVisBackend')]),
        default_scope='mmengine',
        experiment_name=tmp_path.name,
    )
    settings.update(changed)
    Runner(**settings).train()
    return tmp_path


def test_the_hook_draws_the_same_images_before_and_during_training(tmp_path):
    hook = dict(type='mmvit_ext.SuperpixelVisualizationHook', interval=2, indices=(0, 2), edge=64)
    folder = run_training(tmp_path, hook)
    drawn = {path.name: np.array(Image.open(path)) for path in folder.rglob('*.png')}
    names = {f'superpixels_{i}_photo{i}_{step}.png' for i in (0, 2) for step in (0, 2, 4)}
    assert set(drawn) == names
    shapes = {drawn[f'superpixels_0_photo0_{step}.png'].shape for step in (0, 2, 4)}
    assert len(shapes) == 1
    assert not np.array_equal(drawn['superpixels_0_photo0_0.png'], drawn['superpixels_0_photo0_4.png'])


def test_the_hook_can_count_epochs(tmp_path):
    hook = dict(type='mmvit_ext.SuperpixelVisualizationHook', interval=2, by_epoch=True, indices=(1,), edge=32)
    folder = run_training(
        tmp_path,
        hook,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=100),
        default_hooks=dict(checkpoint=None),
    )
    assert {path.name for path in folder.rglob('*.png')} == {f'superpixels_1_photo1_{step}.png' for step in (0, 2)}


def test_a_run_that_diverges_is_not_ended_by_its_pictures(tmp_path):
    hook = dict(type='mmvit_ext.SuperpixelVisualizationHook', interval=4, indices=(0,), edge=32)
    folder = run_training(tmp_path, hook, lr=1e30)
    assert [path.name for path in folder.rglob('*.png')] == ['superpixels_0_photo0_0.png']
    (log,) = folder.rglob('*.log')
    assert 'image 0_photo0: the superpixels cannot be told' in log.read_text()


def test_the_hook_refuses_what_it_cannot_draw(tmp_path):
    kind = 'mmvit_ext.SuperpixelVisualizationHook'
    with pytest.raises(UserError, match='the validation dataset has 3 images, counted from 0'):
        run_training(tmp_path, dict(type=kind, indices=(3,)))
    none = dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    with pytest.raises(UserError, match='add val_dataloader'):
        run_training(tmp_path, dict(type=kind), **none)
    for arguments in ({'interval': 0}, {'edge': 8}, {'indices': ()}, {'indices': (-1,)}):
        with pytest.raises(ValueError, match=str(*arguments)):
            SuperpixelVisualizationHook(**arguments)
