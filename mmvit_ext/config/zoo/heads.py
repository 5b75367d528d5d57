"""The heads of the zoo, one function each: what follows a backbone in a config, and the maps it asks the backbone for.

A function returns the ``type`` of the model, additions to its ``backbone``, and its other parts. The shipped
``configs/_base_/models`` have the same heads with the published settings; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mmvit_ext.config.zoo.backbones import BackboneRow

__all__ = ['HEADS', 'Head']

Parts = dict[str, Any]

ATM_BLOCKS = {12: (5, 7, 11), 24: (7, 15, 23)}
"""Blocks that SegViT decodes, counted from 0 (arXiv 2210.05844)."""

SEPARATE = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
NORM = dict(type='BN', requires_grad=True)
BOXES = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0])


def _quarters(row: BackboneRow) -> tuple[int, ...]:
    """The last block of each quarter of a plain backbone, or the stages of a pyramid."""
    return tuple(row.depth * part // 4 - 1 for part in (1, 2, 3, 4)) if row.plain else (0, 1, 2, 3)


def _maps(row: BackboneRow, indices: tuple[int, ...], **more: Any) -> Parts:
    """Additions to the backbone for maps of these blocks or stages."""
    beyond = dict(extra_dims=row.widths[-1]) if row.type == 'NesT' else {}
    return dict(out_indices=indices, **beyond, **more)


def _pyramid(row: BackboneRow, first: int = 0, **fpn: Any) -> Parts:
    """Maps of strides 4 to 32, from level ``first`` on, behind a feature pyramid network."""
    if not row.plain:
        start = dict(start_level=first) if first else {}
        neck = dict(type='FPN', in_channels=list(row.widths), out_channels=row.head_width, **start, **fpn)
        return dict(backbone=_maps(row, _quarters(row)), neck=neck)
    indices = _quarters(row)[first:]
    widths = [row.widths[0]] * len(indices)
    scales = dict(scales=(4, 2, 1, 0.5)[first:]) if first else {}
    necks = [
        dict(type='mmvit_ext.PlainPyramid', in_channels=widths, **scales),
        dict(type='FPN', in_channels=widths, out_channels=row.head_width, **fpn),
    ]
    return dict(backbone=_maps(row, indices), neck=necks)


def _simple_pyramid(row: BackboneRow, num_outs: int) -> Parts:
    """Maps of strides 4 to 64 made of the last one alone (arXiv 2203.16527)."""
    neck = dict(
        type='mmvit_ext.PlainPyramid', in_channels=row.widths[0], out_channels=row.head_width, num_outs=num_outs
    )
    return dict(backbone=_maps(row, (row.depth - 1,)), neck=neck)


def _segmentor(row: BackboneRow, num_classes: int, head: Parts, *, dropout: float = 0.0, **parts: Any) -> Parts:
    shared = dict(
        num_classes=num_classes,
        dropout_ratio=dropout,
        norm_cfg=dict(NORM),
        align_corners=False,
        loss_decode=dict(SEPARATE),
    )
    head = {**shared, **head}
    for name in [name for name, value in head.items() if value is None]:
        del head[name]
    parts.setdefault('backbone', _maps(row, (row.depth - 1,)))
    return dict(type='EncoderDecoder', **parts, decode_head=head, train_cfg={}, test_cfg=dict(mode='whole'))


def _segvit(row: BackboneRow, num_classes: int) -> Parts:
    indices = ATM_BLOCKS[row.depth] if row.plain else (1, 2, 3)
    widths = [row.widths[0]] * 3 if row.plain else list(row.widths[1:])
    channels = row.widths[0] // 2 if row.plain else 512
    head = dict(
        type='mmvit_ext.ATMHead',
        num_classes=num_classes,
        in_channels=widths,
        in_index=[0, 1, 2],
        channels=channels,
        num_heads=channels // 32,
        num_layers=3,
        loss_decode=dict(type='mmvit_ext.ATMLoss'),
    )
    token = dict(with_cls_token=False) if row.type in ('ViT', 'TNT') else {}
    tests = dict(train_cfg={}, test_cfg=dict(mode='whole'))
    return dict(type='EncoderDecoder', backbone=_maps(row, indices, **token), decode_head=head, **tests)


def _segvit_shrunk(row: BackboneRow, num_classes: int) -> Parts:
    third = row.depth // 3
    parts = _segvit(row, num_classes)
    kind = dict(type='mmvit_ext.ShrunkViT') if row.type == 'ViT' else {}
    indices = (5, 11) if row.depth == 12 else (third - 1, row.depth - 1)
    parts['backbone'].update(kind, shrink_index=6 if row.depth == 12 else third, out_indices=indices)
    widths = [row.widths[0]] * 2
    parts['decode_head'].update(
        type='mmvit_ext.ShrunkATMHead', in_channels=widths, in_index=[0, 1], img_size=(512, 512)
    )
    if row.type == 'TimmViT':  # there is no released head to begin with
        parts['decode_head']['query_start'] = 'tokens'
    return parts


def _sem_fpn(row: BackboneRow, num_classes: int) -> Parts:
    width, strides = row.head_width, [4, 8, 16, 32]
    head = dict(type='mmvit_ext.FPNHead', in_channels=[width] * 4, in_index=[0, 1, 2, 3], feature_strides=strides)
    return _segmentor(row, num_classes, {**head, 'channels': width // 2}, dropout=0.1, **_pyramid(row, num_outs=4))


def _upernet(row: BackboneRow, num_classes: int) -> Parts:
    widths = list(row.widths) * (4 if row.plain else 1)
    head = dict(type='UPerHead', in_channels=widths, in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=256)
    parts: Parts = dict(backbone=_maps(row, _quarters(row)))
    if row.plain:
        sizes = dict(out_channels=row.widths[0], scales=[4, 2, 1, 0.5])
        parts['neck'] = dict(type='MultiLevelNeck', in_channels=widths, **sizes)
    return _segmentor(row, num_classes, head, dropout=0.1, **parts)


def _setr(row: BackboneRow, num_classes: int, **convolutions: int) -> Parts:
    head = dict(type='mmvit_ext.SETRUPHead', in_channels=row.widths[0], channels=256, in_index=0, **convolutions)
    return _segmentor(row, num_classes, head)


def _setr_naive(row: BackboneRow, num_classes: int) -> Parts:
    return _setr(row, num_classes, num_convs=1, up_scale=4, kernel_size=1)


def _setr_pup(row: BackboneRow, num_classes: int) -> Parts:
    return _setr(row, num_classes, num_convs=4, up_scale=2, kernel_size=3)


def _setr_mla(row: BackboneRow, num_classes: int) -> Parts:
    neck = dict(type='MLANeck', in_channels=[row.widths[0]] * 4, out_channels=256, norm_cfg=dict(NORM))
    neck['act_cfg'] = dict(type='ReLU')
    head = dict(type='SETRMLAHead', in_channels=[256] * 4, channels=512, in_index=[0, 1, 2, 3], mla_channels=128)
    return _segmentor(row, num_classes, head, backbone=_maps(row, _quarters(row)), neck=neck)


def _setr_superpixel(row: BackboneRow, num_classes: int) -> Parts:
    head = dict(type='mmvit_ext.SuperpixelHead', in_channels=row.widths[0], norm_cfg=None)
    return _segmentor(row, num_classes, head, backbone=dict(out_association=True))


def _linear(row: BackboneRow, num_classes: int) -> Parts:
    width = row.widths[0]
    head = dict(type='FCNHead', in_channels=width, in_index=0, channels=width, num_convs=0, concat_input=False)
    return _segmentor(row, num_classes, head)


def _queries(row: BackboneRow, **classes: int) -> Parts:
    return dict(in_channels=row.widths[0], **classes, num_blocks=3 if row.depth == 12 else 4)


def _eomt(row: BackboneRow, num_classes: int) -> Parts:
    normed = dict(final_norm=True) if row.type == 'ViT' else {}
    head = dict(type='mmvit_ext.EoMTHead', **_queries(row, num_classes=num_classes), num_queries=100)
    tests = dict(train_cfg={}, test_cfg=dict(mode='whole'))
    return dict(type='mmvit_ext.EoMT', backbone=normed, decode_head=head, **tests)


def _eomt_instance(row: BackboneRow, num_classes: int) -> Parts:
    normed = dict(final_norm=True) if row.type == 'ViT' else {}
    numbers = dict(num_things_classes=num_classes, num_stuff_classes=0)
    return dict(
        type='mmvit_ext.EoMTDetector',
        backbone=normed,
        panoptic_head=dict(type='mmvit_ext.EoMTPanopticHead', **_queries(row, **numbers), num_queries=200),
        panoptic_fusion_head=dict(type='MaskFormerFusionHead', **numbers, loss_panoptic=None, init_cfg=None),
        train_cfg={},
        test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=100),
    )


def _retinanet(row: BackboneRow, num_classes: int) -> Parts:
    anchors = dict(octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128])
    head = dict(
        type='RetinaHead',
        num_classes=num_classes,
        in_channels=row.head_width,
        stacked_convs=4,
        feat_channels=row.head_width,
        anchor_generator=dict(type='AnchorGenerator', **anchors),
        bbox_coder=dict(BOXES, target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    )
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
    usual = dict(allowed_border=-1, pos_weight=-1, debug=False)
    return dict(
        type='RetinaNet',
        **_pyramid(row, 1, add_extra_convs='on_input', num_outs=5),
        bbox_head=head,
        train_cfg=dict(assigner=assigner, sampler=dict(type='PseudoSampler'), **usual),
        test_cfg=dict(
            nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100
        ),
    )


def _two_stages(row: BackboneRow, num_classes: int, *, masks: bool) -> Parts:
    def regions(edge: int) -> Parts:
        layer = dict(type='RoIAlign', output_size=edge, sampling_ratio=0)
        return dict(
            type='SingleRoIExtractor', roi_layer=layer, out_channels=row.head_width, featmap_strides=[4, 8, 16, 32]
        )

    def training(positive: float, negative: float, number: int, share: float, *, add: bool) -> Parts:
        thresholds = dict(pos_iou_thr=positive, neg_iou_thr=negative, min_pos_iou=negative, match_low_quality=True)
        sampling = dict(num=number, pos_fraction=share, neg_pos_ub=-1, add_gt_as_proposals=add)
        return dict(
            assigner=dict(type='MaxIoUAssigner', **thresholds, ignore_iof_thr=-1),
            sampler=dict(type='RandomSampler', **sampling),
            pos_weight=-1,
            debug=False,
        )

    anchors = dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])
    l1 = dict(type='L1Loss', loss_weight=1.0)
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=regions(7),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=row.head_width,
            fc_out_channels=4 * row.head_width,
            roi_feat_size=7,
            num_classes=num_classes,
            bbox_coder=dict(BOXES, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(SEPARATE),
            loss_bbox=dict(l1),
        ),
    )
    if masks:
        loss = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)
        size = dict(in_channels=row.head_width, conv_out_channels=row.head_width, num_classes=num_classes)
        roi_head['mask_roi_extractor'] = regions(14)
        roi_head['mask_head'] = dict(type='FCNMaskHead', num_convs=4, **size, loss_mask=loss)
    proposals = dict(max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    suppression = dict(type='nms', iou_threshold=0.5)
    pyramid = _simple_pyramid if row.type == 'TimmViT' else _pyramid
    return dict(
        type='MaskRCNN' if masks else 'FasterRCNN',
        **pyramid(row, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=row.head_width,
            feat_channels=row.head_width,
            anchor_generator=dict(type='AnchorGenerator', **anchors),
            bbox_coder=dict(BOXES, target_stds=[1.0, 1.0, 1.0, 1.0]),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(l1),
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(training(0.7, 0.3, 256, 0.5, add=False), allowed_border=-1),
            rpn_proposal=dict(nms_pre=2000, **proposals),
            rcnn=dict(training(0.5, 0.5, 512, 0.25, add=True), mask_size=28),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=1000, **proposals),
            rcnn=dict(score_thr=0.05, nms=suppression, max_per_img=100, mask_thr_binary=0.5),
        ),
    )


def _faster_rcnn(row: BackboneRow, num_classes: int) -> Parts:
    return _two_stages(row, num_classes, masks=False)


def _mask_rcnn(row: BackboneRow, num_classes: int) -> Parts:
    return _two_stages(row, num_classes, masks=True)


def _classifier(row: BackboneRow, num_classes: int) -> Parts:
    backbone: Parts
    if row.plain:
        normed = dict(final_norm=True) if row.type == 'ViT' else {}
        backbone = dict(out_type='cls_token' if row.token else 'avg_featmap', **normed)
    else:
        backbone = dict(out_indices=(3,) if row.type == 'P2T' else -1)
    width = row.widths[2 if row.type == 'NesT' else -1]  # NesT has its fourth map for pyramids only
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        **({} if row.plain else dict(neck=dict(type='GlobalAveragePooling'))),
        head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=width, loss=loss),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    )


class Head(NamedTuple):
    """Task of a head, whether it goes with a backbone, and what it adds to the config."""

    task: str
    takes: Callable[[BackboneRow], bool]
    parts: Callable[[BackboneRow, int], Parts]


def _all(row: BackboneRow) -> bool:
    return row.type != 'SPFormer'


def _plain(row: BackboneRow) -> bool:
    return row.plain and row.type != 'SPFormer'


def _shrinkable(row: BackboneRow) -> bool:
    """Whether the blocks are those of a ViT or timm's standard ones, in which tokens can go and come."""
    return row.type == 'ViT' or (row.type == 'TimmViT' and not row.arch.startswith(('beit', 'samvit')))


HEADS = {
    'segvit': Head('seg', _all, _segvit),
    'segvit-shrunk': Head('seg', _shrinkable, _segvit_shrunk),
    'sem-fpn': Head('seg', _all, _sem_fpn),
    'upernet': Head('seg', _all, _upernet),
    'setr-naive': Head('seg', _plain, _setr_naive),
    'setr-pup': Head('seg', _plain, _setr_pup),
    'setr-mla': Head('seg', _plain, _setr_mla),
    'setr-superpixel': Head('seg', lambda row: row.type == 'SPFormer', _setr_superpixel),
    'linear': Head('seg', _plain, _linear),
    'eomt': Head('seg', _shrinkable, _eomt),
    'retinanet': Head('det', _all, _retinanet),
    'faster-rcnn': Head('det', _all, _faster_rcnn),
    'mask-rcnn': Head('inst', _all, _mask_rcnn),
    'eomt-instance': Head('inst', _shrinkable, _eomt_instance),
    '': Head('cls', lambda row: True, _classifier),
}
