"""How a model of the zoo is trained on somebody's own images: sizes, batch, schedule and learning rate, as a config."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from mmvit_ext.config.writing import Name
from mmvit_ext.config.zoo import LIBRARIES, entry_of, model_config
from mmvit_ext.datasets.folder import FolderData

__all__ = ['Recipe', 'choose_recipe', 'sections_of']

EDGES = {'seg': (128, 512, 256), 'det': (192, 800, 320), 'inst': (192, 800, 320), 'cls': (64, 224, 128)}
"""Shorter side of a training image in pixels: least, most on a GPU, most on a CPU."""

BATCHES = {'seg': (16, 8), 'det': (16, 4), 'inst': (16, 4), 'cls': (64, 16)}
"""Most images of a batch, on a GPU and on a CPU."""

BYTES_PER_PIXEL = 24_000
"""Activations of a training step with ViT-B, a rough figure that leaves room."""

SAMPLES, EPOCHS = (16_000, 4_000), (12, 150)
"""Images that a training with pretrained weights sees, on a GPU and on a CPU, and least and most passes over the data;
twice from scratch."""

FEW_IMAGES = 300
"""Below, pretrained weights are kept as they are; above, they learn more slowly the earlier their block is."""

LEARNING_RATES = {'scratch': 1e-3, 'frozen': 5e-4, 'tuned': 2e-4}
"""For 16 images of a batch; they grow with the square root of it."""

PADDING = -1.0
"""Value of pixels beyond an image, in standard deviations, where a network begins with random weights."""

SAVE_BEST = {'seg': 'mIoU', 'det': 'coco/bbox_mAP', 'inst': 'coco/segm_mAP', 'cls': 'accuracy/top1'}


@dataclass(frozen=True)
class Recipe:
    """The figures of a training."""

    model: str
    task: str
    weights: Mapping[str, Any]  # what the backbone's config says of its weights, empty from scratch
    mode: str  # scratch, frozen or tuned
    edge: int
    batch_size: int
    max_iters: int
    val_interval: int
    lr: float

    def lines(self, count: int) -> list[str]:
        """What is told of it; ``count`` is the number of training images."""
        epochs = self.max_iters * self.batch_size / count
        modes = {
            'scratch': 'from scratch',
            'frozen': 'the backbone keeps its pretrained weights',
            'tuned': 'the backbone learns more slowly the earlier the block',
        }
        sizes = {'seg': 'crops of {0}x{0} pixels', 'cls': 'images of {0}x{0} pixels'}
        size = sizes.get(self.task, 'images with a shorter side of {0} pixels').format(self.edge)
        return [
            f'model {self.model}: {modes[self.mode]}',
            f'{self.batch_size} {size} a step, {self.max_iters} steps ({epochs:.3g} epochs), learning rate {self.lr:g}',
        ]


def choose_recipe(
    data: FolderData,
    model: str,
    weights: Mapping[str, Any],
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    size: int | None = None,
) -> Recipe:
    """Choose what is not given by the model, the number and sizes of the images, and the machine."""
    entry, gpu = entry_of(model), torch.cuda.is_available()
    row, task, count = entry.row, entry.task, len(data.splits['train'])
    least, most, most_on_cpu = EDGES[task]
    unit = row.patch if row.patch != 16 and task == 'cls' else 32
    wanted = size or min(max(min(data.sizes[1]), least), most if gpu else most_on_cpu)
    edge = max(round(wanted / unit), 1) * unit
    if batch_size is None:
        batch_size = BATCHES[task][0 if gpu else 1]
        if gpu:
            share = row.widths[0] * row.depth / (768 * 12) if row.plain else 0.5
            pixels = edge**2 if task in ('seg', 'cls') else edge**2 * 5 / 3
            room = 0.7 * torch.cuda.mem_get_info()[0] / (pixels * BYTES_PER_PIXEL * max(share, 0.25))
            batch_size = min(batch_size, 2 ** int(math.log2(max(room, 2))))
        batch_size = min(batch_size, max(count, 2))
    mode = 'scratch'
    if weights:
        freezes = row.type in ('TimmViT', 'ViT') and (count < FEW_IMAGES or not gpu)
        mode = 'frozen' if freezes else 'tuned'
    if epochs is None:
        factor = 2 if mode == 'scratch' else 1
        epochs = factor * min(max(round(SAMPLES[0 if gpu else 1] / count), EPOCHS[0]), EPOCHS[1])
    steps = max(math.ceil(epochs * count / batch_size), 1)
    interval = min(max(round(steps / 10), math.ceil(count / batch_size)), steps)  # of a pass at least
    lr = LEARNING_RATES[mode] * math.sqrt(batch_size / 16)
    lr = float(f'{lr:.1e}')
    steps = max(round(steps / interval), 1) * interval
    return Recipe(model, task, weights, mode, edge, batch_size, steps, interval, lr)


def sections_of(
    recipe: Recipe, data: FolderData, datasets: Mapping[str, Mapping[str, Any]], work_dir: str
) -> dict[str, dict[str, Any]]:
    """The sections of the config, for :func:`mmvit_ext.config.writing.config_text`."""
    return {
        'Where it writes, and the figures that a change is most likely for.': dict(
            work_dir=work_dir,
            default_scope=LIBRARIES[recipe.task],
            custom_imports=dict(imports=['mmvit_ext'], allow_failed_imports=False),
            edge=recipe.edge,
            batch_size=recipe.batch_size,
            max_iters=recipe.max_iters,
            val_interval=recipe.val_interval,
            lr=recipe.lr,
        ),
        'Images and annotations: how they are read, augmented and brought to the size of the network.': _data(
            recipe, data, datasets
        ),
        'The network.': dict(model=_model(recipe, data)),
        'Optimisation.': _optimisation(recipe),
        'What happens beside the training: log, checkpoints, pictures, what makes it reliable.': _runtime(recipe),
    }


def _loader(data: FolderData) -> dict[str, Any]:
    step: dict[str, Any] = dict(type='LoadImageFromFile', _scope_='mmvit_ext')
    if data.bits > 8 or data.channels not in (1, 3):
        step['color_type'] = 'unchanged'
        if data.channels >= 3 and data.bits > 8:
            step['imdecode_backend'] = 'cv2'  # Pillow has no colours of more than 8 bit
    elif data.channels == 1:
        step['color_type'] = 'grayscale'
    return step


def _pipelines(recipe: Recipe, data: FolderData) -> tuple[list[Any], list[Any]]:
    edge, load, flip = Name('edge'), _loader(data), dict(type='RandomFlip', prob=0.5)
    grow: dict[str, Any]
    fit: dict[str, Any]
    pack: dict[str, Any]
    if recipe.task == 'cls':
        cut = dict(type='RandomResizedCrop', scale=edge, crop_ratio_range=(0.35, 1.0), interpolation='bicubic')
        pack = dict(type='PackInputs')
        fit = dict(type='ResizeEdge', scale=Name('edge * 8 // 7'), edge='short', interpolation='bicubic')
        return [load, cut, flip, pack], [load, fit, dict(type='CenterCrop', crop_size=edge), pack]
    if recipe.task == 'seg':
        labels = data.load_annotations or dict(type='mmvit_ext.LoadSegAnnotations')
        scale = Name('(4 * edge, edge)')
        crop = dict(type='RandomCrop', crop_size=Name('(edge, edge)'), cat_max_ratio=0.75)
        # From scratch on few images a network learns colours first, and what changes them costs more than it brings.
        distorts = recipe.mode != 'scratch' and data.channels == 3 and data.bits == 8
        colours = [dict(type='PhotoMetricDistortion')] if distorts else []
        grow = dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True)
        pack = dict(type='PackSegInputs')
        fit = dict(type='Resize', scale=scale, keep_ratio=True)
        return [load, labels, grow, crop, flip, *colours, pack], [load, fit, labels, pack]
    labels = dict(type='LoadAnnotations', with_bbox=True, with_mask=recipe.task == 'inst')
    scale = Name('(edge * 5 // 3, edge)')
    grow = dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True)
    small = dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    fit = dict(type='Resize', scale=scale, keep_ratio=True)
    pack = dict(type='PackDetInputs', meta_keys=keys)
    return [load, labels, grow, flip, small, dict(type='PackDetInputs')], [load, fit, labels, pack]


def _data(recipe: Recipe, data: FolderData, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    task = recipe.task
    workers = min((os.cpu_count() or 1) - 1, 8) if torch.cuda.is_available() else 0
    shared: dict[str, Any] = dict(num_workers=workers, persistent_workers=workers > 0)
    if task == 'cls':
        shared['collate_fn'] = dict(type='default_collate')
    train_pipeline, test_pipeline = _pipelines(recipe, data)
    found: dict[str, Any] = dict(train_pipeline=train_pipeline, test_pipeline=test_pipeline)
    for split, dataset in datasets.items():
        training = split == 'train'
        sampler = dict(type='InfiniteSampler' if training else 'DefaultSampler', shuffle=training)
        extra: dict[str, Any] = dict(pipeline=Name('train_pipeline' if training else 'test_pipeline'))
        if LIBRARIES[task] == 'mmdet':
            extra |= dict(filter_cfg=dict(filter_empty_gt=True)) if training else dict(test_mode=True)
        batch = Name('batch_size') if training or task == 'cls' else 1
        found[f'{split}_dataloader'] = dict(batch_size=batch, **shared, sampler=sampler, dataset={**dataset, **extra})
        if not training:
            metric = ['bbox', 'segm'] if task == 'inst' else ['bbox']
            found[f'{split}_evaluator'] = {
                'seg': dict(type='IoUMetric', iou_metrics=['mIoU']),
                'cls': dict(type='Accuracy', topk=(1, 5) if len(data.classes) > 5 else (1,)),
            }.get(task, dict(type='CocoMetric', ann_file=dataset.get('ann_file'), metric=metric))
    if 'test' not in datasets:
        found |= dict(test_dataloader=Name('val_dataloader'), test_evaluator=Name('val_evaluator'))
    return found


def _model(recipe: Recipe, data: FolderData) -> dict[str, Any]:
    crop = (recipe.edge, recipe.edge)
    model = model_config(recipe.model, len(data.classes), channels=data.channels, img_size=crop)
    if 'img_size' in model['backbone']:
        model['backbone']['img_size'] = Name('(edge, edge)')
    preprocessor, head = model['data_preprocessor'], model.get('decode_head')
    if data.bits > 8:
        middle = [(2**data.bits - 1) / 2] * len(preprocessor['mean'])
        preprocessor.update(mean=middle, std=middle)
    if head is not None:
        preprocessor['size'] = Name('(edge, edge)')
    if recipe.task == 'cls':
        model.pop('train_cfg', None)  # mixing images is for long trainings
    if recipe.mode == 'scratch':
        model['backbone']['drop_path_rate'] = 0.0
        # Where a patch is all zeros, as padding is, a first norm without biases multiplies gradients by a thousand.
        preprocessor['pad_val' if recipe.task == 'seg' else 'pad_value'] = PADDING
        if 'neck' in model and LIBRARIES[recipe.task] == 'mmdet':  # without norms a detector hardly begins to learn
            norm = dict(type='GN', num_groups=32)
            necks = model['neck'] if isinstance(model['neck'], list) else [model['neck']]
            for part in (necks[-1], model.get('bbox_head'), model.get('roi_head', {}).get('mask_head')):
                if part is not None:
                    part['norm_cfg'] = norm
    if LIBRARIES[recipe.task] == 'mmdet' and 'panoptic_head' not in model:
        _fit_detector(model, recipe, data)
    if entry_of(recipe.model).head.startswith('eomt'):  # not more points than a mask has pixels
        points = min((recipe.edge // 4) ** 2, 12544)
        model['decode_head' if recipe.task == 'seg' else 'panoptic_head']['num_points'] = points
    if recipe.mode == 'frozen':
        model['backbone'].update(frozen_stages=entry_of(recipe.model).row.depth, drop_path_rate=0.0)
    model['backbone'].update(recipe.weights)
    return model


def _fit_detector(model: dict[str, Any], recipe: Recipe, data: FolderData) -> None:
    """Give anchors the size of the objects and, without a GPU, take fewer regions, which cost most of the time."""
    edges = []
    for sample in data.splits['train']:
        factor = min(recipe.edge / min(sample.size), recipe.edge * 5 / 3 / max(sample.size))
        edges += [factor * math.sqrt(item.box[2] * item.box[3]) for item in sample.objects]
    middle = median(edges or [128])
    if 'rpn_head' not in model:
        model['bbox_head']['anchor_generator']['octave_base_scale'] = min(max(round(middle / 40, 1), 1), 4)
        return
    model['rpn_head']['anchor_generator']['scales'] = [min(max(round(middle / 16, 1), 2), 8)]
    if torch.cuda.is_available():
        return
    for part in (model['train_cfg']['rpn_proposal'], model['test_cfg']['rpn']):
        part.update(nms_pre=500, max_per_img=300)
    model['train_cfg']['rcnn']['sampler'].update(num=64, pos_fraction=0.5)
    for name, part in model['roi_head'].items():
        if name.endswith('_extractor'):
            part['roi_layer']['sampling_ratio'] = 2
            part['finest_scale'] = 28


def _optimisation(recipe: Recipe) -> dict[str, Any]:
    rate = 0.75 if recipe.mode == 'tuned' else 1.0
    warm = min(recipe.max_iters // 10, 500)
    warm = warm if warm > 1 else 0  # a warm-up of one step would never leave its start_factor
    optimizer = dict(type='AdamW', lr=Name('lr'), betas=(0.9, 0.999), weight_decay=0.05)
    schedule = [
        dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warm),
        dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warm, end=Name('max_iters')),
    ]
    return dict(
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=Name('max_iters'), val_interval=Name('val_interval')),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=optimizer,
            constructor='mmvit_ext.LayerDecayConstructor',
            paramwise_cfg=dict(decay_rate=rate),
            clip_grad=dict(max_norm=10, norm_type=2),
        ),
        param_scheduler=schedule if warm else schedule[1:],
        auto_scale_lr=dict(enable=False, base_batch_size=Name('batch_size')),
    )


def _runtime(recipe: Recipe) -> dict[str, Any]:
    library = LIBRARIES[recipe.task]
    drawing = {
        'mmseg': ('SegVisualizationHook', 'SegLocalVisualizer'),
        'mmdet': ('DetVisualizationHook', 'DetLocalVisualizer'),
        'mmpretrain': ('VisualizationHook', 'UniversalVisualizer'),
    }
    hook, visualizer = drawing[library]
    annealed = entry_of(recipe.model).head.startswith('eomt')
    own = (
        'DeferredInfo',
        'ExactResume',
        'ResumedConfig',
        'Preemption',
        'NonFinite',
        'Metrics',
        'SafeFiles',
        'SkippedSamples',
    )
    names = (
        'runtime_info',
        'exact_resume',
        'resumed_config',
        'preemption',
        'nonfinite',
        'metrics',
        'safe_files',
        'skipped_samples',
    )
    return dict(
        **(dict(custom_hooks=[dict(type='mmvit_ext.MaskAnnealingHook')]) if annealed else {}),
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=min(max(recipe.max_iters // 40, 1), 50), log_metric_by_epoch=False),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(
                type='mmvit_ext.AtomicCheckpointHook',
                by_epoch=False,
                interval=Name('val_interval'),
                save_best=SAVE_BEST[recipe.task],
                max_keep_ckpts=1,
            ),
            sampler_seed=dict(type='DistSamplerSeedHook'),
            visualization=dict(type=hook),
            **{name: dict(type=f'mmvit_ext.{kind}Hook') for name, kind in zip(names, own, strict=True)},
        ),
        visualizer=dict(type=visualizer, name='visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        log_processor=dict(by_epoch=False),
        log_level='INFO',
        env_cfg=dict(
            cudnn_benchmark=recipe.task in ('seg', 'cls'),
            mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
            dist_cfg=dict(backend='nccl'),
        ),
        randomness=dict(seed=0),
        load_from=None,
        resume=False,
    )
