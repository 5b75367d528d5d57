"""Superpixel quality: by hand on a few pixels, against loops, and the refusals."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv')

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.evaluation.superpixel_quality import (
    SuperpixelQuality,
    best_labels,
    intersection_and_union,
    patch_regions,
    slic_regions,
)
from tests.models.superpixels.test_superpixel_maps import similarity_of, slow_fine_association

INF = float('inf')


def slow_best_labels(weights, regions, labels, num_classes, ignore_index):
    votes = np.zeros((int(regions.max()) + 1, num_classes))
    n, H, W = regions.shape
    for y in range(H):
        for x in range(W):
            for k in range(n):
                if regions[k, y, x] >= 0 and labels[y, x] != ignore_index:
                    votes[regions[k, y, x], labels[y, x]] += weights[k, y, x]
    predicted = np.zeros((H, W), dtype=int)
    for y in range(H):
        for x in range(W):
            scores = np.zeros(num_classes)
            for k in range(n):
                region = regions[k, y, x]
                if region >= 0 and votes[region].max() > 0:
                    scores[votes[region].argmax()] += weights[k, y, x]
            predicted[y, x] = scores.argmax()
    return predicted


def test_a_region_takes_its_most_frequent_label_by_hand():
    labels = torch.tensor([[2, 2, 1, 1, 0], [2, 0, 0, 1, 0]])
    regions = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
    # Region 0 holds 2, 2, 1, 2, 0, 0 and region 1 holds 1, 0, 1, 0: the lowest class where they are equal.
    predicted = best_labels(torch.ones(1, 2, 5), regions[None], labels, 3)
    assert predicted.tolist() == [[2, 2, 2, 0, 0], [2, 2, 2, 0, 0]]
    both, either = intersection_and_union(predicted, labels, 3)
    assert both.tolist() == [2, 0, 3]
    assert either.tolist() == [6, 3, 6]


def test_soft_shares_vote_and_lift_with_their_weight_by_hand():
    labels = torch.tensor([[0, 0, 1]])
    regions = torch.tensor([[[0, 0, 0]], [[1, 1, 1]]])
    weights = torch.tensor([[[0.9, 0.2, 0.4]], [[0.1, 0.8, 0.6]]])
    # Region 0: 1.1 for class 0 and 0.4 for class 1; region 1: 0.9 and 0.6. Both take class 0.
    assert best_labels(weights, regions, labels, 2).tolist() == [[0, 0, 0]]
    # With less of the second pixel, region 1 has 0.4 against 0.6: class 1, which the third pixel gets from it.
    weights[1, 0, 1] = 0.3
    weights[0, 0, 1] = 0.7
    assert best_labels(weights, regions, labels, 2).tolist() == [[0, 0, 1]]


def test_pixels_without_a_label_have_no_vote_and_do_not_count():
    labels = torch.tensor([[9, 9, 9, 1, 0, 0]])
    regions = torch.tensor([[[0, 0, 0, 0, 1, 1]]])
    predicted = best_labels(torch.ones(1, 1, 6), regions, labels, 2, ignore_index=9)
    assert predicted.tolist() == [[1, 1, 1, 1, 0, 0]]
    both, either = intersection_and_union(predicted, labels, 2, ignore_index=9)
    assert (both.tolist(), either.tolist()) == ([2, 1], [2, 1])


def test_a_region_without_any_label_leaves_its_pixels_to_their_other_regions():
    labels = torch.tensor([[255, 255, 2]])
    regions = torch.tensor([[[0, 0, 1]], [[-1, 1, -1]]])
    weights = torch.tensor([[[1.0, 0.9, 1.0]], [[5.0, 0.1, 5.0]]])  # a weight at no region counts nothing
    assert best_labels(weights, regions, labels, 3).tolist() == [[0, 2, 2]]


@pytest.mark.parametrize('seed', range(3))
def test_best_labels_equal_those_of_loops(seed, monkeypatch):
    monkeypatch.setattr('mmvit_ext.evaluation.superpixel_quality._CHUNK', 10)
    generator = np.random.default_rng(seed)
    regions = generator.integers(-1, 6, (3, 7, 11))
    regions[0] = generator.integers(0, 6, (7, 11))
    weights = generator.random((3, 7, 11))
    labels = generator.integers(0, 4, (7, 11))
    labels[generator.random((7, 11)) < 0.2] = 255
    ours = best_labels(*map(torch.from_numpy, (weights, regions, labels)), 4)
    assert np.array_equal(ours.numpy(), slow_best_labels(weights, regions, labels, 4, 255))


def test_patches_are_squares_from_the_upper_left():
    assert patch_regions((3, 5), 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


# The metric


def make(**arguments):
    metric = SuperpixelQuality(**arguments)
    metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    return metric


def sample_of(labels, similarity=None, img_shape=None, cell_size=2, pixel_stride=2):
    sample = {'gt_sem_seg': {'data': torch.as_tensor(labels)[None]}, 'img_path': 'x.jpg', 'seg_map_path': 'x.png'}
    if img_shape:
        sample['img_shape'] = img_shape
    if similarity is not None:
        sample['superpixels'] = {
            'similarity': similarity[None, None, 0],
            'cell_size': cell_size,
            'pixel_stride': pixel_stride,
        }
    return sample


def evaluate(metric, *samples, inputs=None):
    for index, sample in enumerate(samples):
        metric.process({'inputs': None if inputs is None else [inputs[index]]}, [sample])
    return metric.evaluate(len(samples))


def random_labels(size, seed=0, classes=3, ignored=0.1):
    generator = np.random.default_rng(seed)
    # Blobs of about 3 pixels, so that regions matter.
    coarse = generator.integers(0, classes, [-(-edge // 3) for edge in size])
    labels = coarse.repeat(3, 0).repeat(3, 1)[: size[0], : size[1]].copy()
    labels[generator.random(size) < ignored] = 255
    return labels


def slow_scores(associations, ids, samples, num_classes):
    """mIoU of each head over samples; ``associations`` and ``ids`` at the size of the labels."""
    scores = []
    for head in range(len(associations[0])):
        both, either = np.zeros(num_classes), np.zeros(num_classes)
        for association, index, labels in zip(associations, ids, samples, strict=True):
            predicted = slow_best_labels(association[head], index, labels, num_classes, 255)
            for c in range(num_classes):
                counts = labels != 255
                both[c] += (counts & (predicted == c) & (labels == c)).sum()
                either[c] += (counts & ((predicted == c) | (labels == c))).sum()
        scores.append(100 * np.mean([b / e for b, e in zip(both, either, strict=True) if e]))
    return scores


def test_the_metric_equals_a_slow_computation_over_two_images():
    shapes = ((9, 7), (5, 10))  # of the network's input; features have half of that, rounded up
    labels = [random_labels((18, 14), 1), random_labels((7, 13), 2)]
    samples, associations, ids = [], [], []
    for number, (shape, truth) in enumerate(zip(shapes, labels, strict=True)):
        similarity = 3 * similarity_of([-(-edge // 2) for edge in shape], 2, heads=2, seed=number)
        samples.append(sample_of(truth, similarity, shape))
        merged = torch.cat([similarity, similarity.sum(1, keepdim=True) / 2**0.5], 1)
        fine = slow_fine_association(merged, 2, 2)[0].numpy()
        columns = -(-similarity.shape[-1] // 2)
        grid_rows = -(-similarity.shape[-2] // 2)
        association, index = np.zeros((3, 9, *truth.shape)), np.full((9, *truth.shape), -1)
        for Y in range(truth.shape[0]):
            for X in range(truth.shape[1]):
                y, x = int((Y + 0.5) * shape[0] / truth.shape[0]), int((X + 0.5) * shape[1] / truth.shape[1])
                association[:, :, Y, X] = fine[:, :, y, x]
                for n in range(9):
                    row, column = y // 4 + n // 3 - 1, x // 4 + n % 3 - 1
                    if 0 <= row < grid_rows and 0 <= column < columns:
                        index[n, Y, X] = row * columns + column
        associations.append(association)
        ids.append(index)
    results = evaluate(make(), *samples)
    head1, head2, merged = slow_scores(associations, ids, labels, 3)
    assert results['superpixels/mIoU_head1'] == pytest.approx(head1, rel=1e-6)
    assert results['superpixels/mIoU_head2'] == pytest.approx(head2, rel=1e-6)
    assert results['superpixels/mIoU_merged'] == pytest.approx(merged, rel=1e-6)
    assert results['superpixels/mIoU'] == pytest.approx((head1 + head2) / 2, rel=1e-6)
    assert results['superpixels/regions'] == (3 * 2 + 2 * 3) / 2


@pytest.mark.parametrize('labels_size', [(13, 22), (26, 11)])
def test_superpixels_that_keep_to_their_cells_are_patches(labels_size):
    shape = (13, 22)
    similarity = torch.where(similarity_of((7, 11), 2) == -INF, -INF, 0.0)
    similarity[:, :, 4] = 1e4
    sample = sample_of(random_labels(labels_size), similarity, shape)
    superpixels = evaluate(make(), sample)
    patches = evaluate(make(regions='patches', patch_size=4), sample, inputs=[torch.zeros(3, *shape)])
    assert superpixels['superpixels/mIoU'] == pytest.approx(patches['patches/mIoU'])
    assert superpixels['superpixels/mIoU_merged'] == pytest.approx(patches['patches/mIoU'])
    assert 30 < patches['patches/mIoU'] < 95
    assert patches['patches/regions'] == 4 * 6


def test_superpixels_along_the_labels_reach_all_of_the_miou():
    """Two cells; the boundary lies a pixel beside theirs, and pixels know on which side they are."""
    labels = np.array([[0, 0, 0, 1, 1, 1, 1, 1]] * 4)
    similarity = torch.full((1, 1, 9, 4, 8), -INF, dtype=torch.float64)
    for x in range(8):
        cell, wanted = x // 4, labels[0, x]
        for other in (0, 1):
            similarity[0, 0, 3 + other - cell + 1, :, x] = 40.0 if other == wanted else 0.0
    found = sample_of(labels, similarity, (4, 8), cell_size=4, pixel_stride=1)
    metric = make()
    metric.dataset_meta = {'classes': ('a', 'b')}
    assert evaluate(metric, found)['superpixels/mIoU'] == pytest.approx(100.0)
    patches = make(regions='patches', patch_size=4)
    result = evaluate(patches, found, inputs=[torch.zeros(3, 4, 8)])
    # Patch 0 calls its last column 0: class 0 has 12 of 16, class 1 16 of 20; class 2 is nowhere.
    assert result['patches/mIoU'] == pytest.approx(100 * (12 / 16 + 16 / 20) / 2)


def test_iteration_and_module_say_which_similarity_counts():
    good, bad = (5 * similarity_of((4, 4), 2, heads=1, seed=seed) for seed in (0, 5))
    labels = random_labels((8, 8), 3)
    sample = sample_of(labels, good, (8, 8))
    both = dict(sample)
    both['superpixels'] = dict(sample['superpixels'], similarity=torch.stack([good[0], bad[0]])[:, None])
    alone = evaluate(make(), sample)['superpixels/mIoU']
    assert evaluate(make(sca_module=0), both)['superpixels/mIoU'] == alone
    assert evaluate(make(sca_module=1), both)['superpixels/mIoU'] != alone
    transposed = dict(both['superpixels'], similarity=both['superpixels']['similarity'].transpose(0, 1))
    assert evaluate(make(iteration=-2), dict(both, superpixels=transposed))['superpixels/mIoU'] == alone
    with pytest.raises(UserError, match=r'iteration=2\): the model has 1'):
        evaluate(make(iteration=2), both)


def test_slic_follows_colours_that_patches_cut():
    pytest.importorskip('skimage')
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    labels = np.zeros((40, 40), dtype=int)
    image[2, :, :25], labels[:, :25] = 255, 1  # red in BGR
    sample = sample_of(labels, img_shape=(40, 40))
    slic = evaluate(make(regions='slic', patch_size=10), sample, inputs=[image])
    patches = evaluate(make(regions='patches', patch_size=10), sample, inputs=[image])
    assert slic['slic/mIoU'] == pytest.approx(100.0)
    assert patches['patches/mIoU'] < 90
    assert 8 <= slic['slic/regions'] <= 24


def test_slic_sees_the_colours_of_the_image_and_not_their_mirror():
    pytest.importorskip('skimage')
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    expected = slic_regions(picture, 9)
    labels = expected.numpy() % 3
    for order, inputs in (('rgb', picture), ('bgr', picture[..., ::-1].copy())):
        metric = make(regions='slic', patch_size=16, channel_order=order)
        result = evaluate(metric, sample_of(labels), inputs=[torch.from_numpy(inputs).permute(2, 0, 1)])
        assert result['slic/mIoU'] == pytest.approx(100.0)


REFUSED = {
    'no superpixels': ({}, sample_of(np.zeros((4, 4), int)), r'mmvit_ext\.SuperpixelExtractor'),
    'diverged': (
        {},
        sample_of(np.zeros((4, 4), int), torch.full((1, 1, 9, 2, 2), float('nan'))),
        r'similarities of x\.jpg are not a number',
    ),
    'no labels': ({}, {'img_path': 'x.jpg'}, r'labels of x\.jpg.*LoadSegAnnotations'),
    'other classes': (
        {},
        sample_of(np.full((4, 4), 3)),
        r'x\.png .* outside the 3 classes: 3 \(16 px\); expected 0 to 2 or 255',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_measured_is_refused_in_a_sentence(case):
    arguments, sample, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        evaluate(make(**arguments), sample)


def test_a_dataset_without_classes_is_refused():
    metric = make()
    metric.dataset_meta = {}
    with pytest.raises(UserError, match=r'metainfo\.classes'):
        evaluate(metric, sample_of(np.zeros((4, 4), int)))


@pytest.mark.parametrize(
    'arguments', [{'regions': 'pixels'}, {'patch_size': 0}, {'compactness': 0}, {'channel_order': 'gbr'}], ids=str
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=str(*arguments)):
        SuperpixelQuality(**arguments)


def test_slic_without_scikit_image_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage.segmentation', None)
    with pytest.raises(UserError, match=r"regions='slic'\) needs scikit-image: pip install scikit-image"):
        slic_regions(np.zeros((4, 4, 3), np.uint8), 2)
