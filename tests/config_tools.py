"""Full-size configs made small enough to run in seconds, by the same changes for all of them, and counted on meta."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import Tensor, nn

from mmvit_ext.models.flops import count_flops

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    # What measures superpixels or activation maps trains nothing; tests/tools/test_superpixel_commands.py and
    # tests/evaluation/test_cam_localization.py look after it.
    if path.parent.name != '_base_' and not path.stem.startswith(('superpixel-quality', 'cam_'))
)
EDGE = 64
"""Edge of crops and sliding windows in pixels."""
WIDTH, HEADS = 24, 3
PYRAMID = {'embed_dims': (8, 16, 24, 32), 'num_heads': (1, 2, 3, 4), 'depths': (1, 1, 1, 1), 'mlp_ratios': (2, 2, 2, 2)}
"""Stages of a small backbone with four maps."""
DETECTION_SIZE = (800, 1280)
"""Height and width in pixels at which detectors are counted."""
BOX_PROPOSALS, MASK_PROPOSALS = 1000, 100
"""Proposals for which the heads of a two-stage detector are counted: all of the first stage, and a tenth of them."""
LEAST_BATCH = 2
"""Images of a training step."""


def config_named(start: str) -> Path:
    """The first config whose name begins so, of ImageNet rather than of what is fine-tuned after it."""
    found = [path for path in CONFIGS if path.stem.startswith(start)]
    return min(found, key=lambda path: 'imagenet' not in path.stem)


_read = cache(Config.fromfile)


def load(path: Path) -> Config:
    """A config to do with as one likes; the file is read once."""
    return copy.deepcopy(_read(path))


@cache
def built(path: Path) -> nn.Module:
    """The full-size model of a config without its memory, built once and only to be looked at."""
    return build_on_meta(load(path)).eval()


def parts_of(path: Path) -> set[str]:
    """What a config consists of: the files that it is based on, and each type in its model with its options."""
    cfg = load(path)
    return {*re.findall(r'^.*/configs/(_base_/.*\.py)$', cfg.text, re.MULTILINE), *_options(cfg.model, 'model')}


def _options(node: dict, place: str) -> Iterator[str]:
    kind = f'{place}: {node.get("type", "")}'
    yield kind
    for name, value in node.items():
        yield f'{kind}.{name}'
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, dict):
                yield from _options(part, f'{kind}.{name}')


def best_of(cfg: Config) -> str:
    """How the name of the best checkpoint of a config begins."""
    return f'best_{cfg.default_hooks.checkpoint.save_best}'.replace('/', '_')


def write_cifar(root: Path, images: int = 4) -> dict[str, Path]:
    """Random images in the files of both CIFAR datasets, as many in each file.

    Args:
        root: Folder to write into.
        images: Number per file.

    Returns:
        ``data_root`` by the name of mmpretrain's class, which has to be kept from comparing checksums.
    """
    rng = np.random.default_rng(0)
    layouts = {
        'CIFAR10': ('cifar-10-batches-py', [*(f'data_batch_{n}' for n in range(1, 6)), 'test_batch'], 'labels', 10),
        'CIFAR100': ('cifar-100-python', ['train', 'test', 'meta'], 'fine_labels', 100),
    }
    for name, (folder, files, labels, classes) in layouts.items():
        (root / name / folder).mkdir(parents=True)
        for file in files:
            entry = {
                'data': rng.integers(0, 256, (images, 3 * 32 * 32), dtype=np.uint8),
                labels: rng.integers(0, classes, images).tolist(),
            }
            (root / name / folder / file).write_bytes(pickle.dumps(entry))
    return {name: root / name for name in layouts}


def write_photographs(root: Path, images: int = 4) -> dict[str, Path]:
    """Random photographs, label maps and objects in the layouts of docs/real_photographs.md.

    Args:
        root: Folder to write into.
        images: Number per split.

    Returns:
        ``data_root`` by the name of mmseg's class, or by the name of the folder where that is one of objects.
    """
    from mmdet.datasets import CocoDataset

    from benchmarks import coco128_labels

    rng = np.random.default_rng(0)
    layouts = {
        'BaseSegDataset': (('train', 'val', 'test'), '.png', 11),
        'DRIVEDataset': (('training', 'validation'), '_manual1.png', 2),
        'ChaseDB1Dataset': (('training', 'validation'), '_1stHO.png', 2),
    }
    for name, (splits, end, classes) in layouts.items():
        for split in splits:
            for folder in ('images', 'annotations'):
                (root / name / folder / split).mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 256, (72, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / 'images' / split / f'{number}.jpg')
                labels = rng.integers(0, classes, (72, 96), dtype=np.uint8)
                Image.fromarray(labels).save(root / name / 'annotations' / split / f'{number}{end}')
    for split in ('train', 'val'):
        for number in range(images):
            for folder, end in (('leftImg8bit', 'leftImg8bit'), ('gtFine', 'gtFine_labelTrainIds')):
                (root / 'CityscapesDataset' / folder / split / 'city').mkdir(parents=True, exist_ok=True)
                path = root / 'CityscapesDataset' / folder / split / 'city' / f'city_{number}_{end}.png'
                shape, most = ((72, 96, 3), 256) if folder == 'leftImg8bit' else ((72, 96), 19)
                Image.fromarray(rng.integers(0, most, shape, dtype=np.uint8)).save(path)
    objects = {
        'bccd': (('RBC', 'WBC', 'Platelets'), {'train': 'images', 'val': 'images', 'test': 'images'}),
        'nuclei': (('nucleus',), {'train': 'images', 'val': 'images'}),
        'coco128': (CocoDataset.METAINFO['classes'], {'instances_train2017': 'train2017'}),
    }
    for name, (classes, splits) in objects.items():
        (root / name / 'annotations').mkdir(parents=True)
        for split, folder in splits.items():
            (root / name / folder).mkdir(exist_ok=True)
            write_objects(root / name, split, folder, classes, images)
    coco128_labels.write(root / 'coco128', root / 'coco128-labels')
    for split in ('train', 'val'):
        for number in range(10):
            (root / 'imagenette' / split / f'n{number:08d}').mkdir(parents=True)
            pixels = rng.integers(0, 256, (160, 200, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / 'imagenette' / split / f'n{number:08d}' / '0.jpg')
    return {name: root / name for name in (*layouts, *objects, 'coco128-labels', 'CityscapesDataset', 'imagenette')}


def write_objects(root: Path, split: str, folder: str, classes: Sequence[str], images: int) -> None:
    """Grey images with a bright rectangle each, and a file in COCO's form, which has its outline."""
    entries: dict[str, list] = {'images': [], 'annotations': []}
    for number in range(images):
        x, y, width, height = 8 + number, 12, 40, 30
        pixels = np.full((72, 96, 3), 60, np.uint8)
        pixels[y : y + height, x : x + width] = 220
        name = f'{split}_{number}.jpg'
        Image.fromarray(pixels).save(root / folder / name)
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        entries['images'].append(dict(id=number, file_name=name, width=96, height=72))
        box = dict(bbox=[x, y, width, height], area=width * height, segmentation=[outline], iscrowd=0)
        entries['annotations'].append(
            dict(id=number + 1, image_id=number, category_id=1 + number % len(classes), **box)
        )
    categories = [dict(id=number + 1, name=name) for number, name in enumerate(classes)]
    (root / 'annotations' / f'{split}.json').write_text(json.dumps({**entries, 'categories': categories}))


def write_fine_grained(root: Path, images: int = 4) -> dict[str, Path]:
    """Random photographs in the layouts of Flowers-102, Oxford-IIIT Pets and iNaturalist 2019.

    Args:
        root: Folder to write into.
        images: Number per list.

    Returns:
        ``data_root`` by the name of mmpretrain's class.
    """
    mat4py = pytest.importorskip('mat4py')
    rng = np.random.default_rng(0)
    flowers, pets, nature = (root / name for name in ('Flowers102', 'OxfordIIITPet', 'CustomDataset'))
    numbers = list(range(1, 3 * images + 1))
    names = {
        flowers / 'jpg': [f'image_{number:05d}.jpg' for number in numbers],
        pets / 'images': [f'cat_{number}.jpg' for number in numbers],
        nature / 'train_val2019/Birds/7': [f'{number}.jpg' for number in numbers],
    }
    for folder, files in names.items():
        folder.mkdir(parents=True)
        for file in files:
            Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(folder / file)
    splits = [numbers[start * images : (start + 1) * images] for start in range(3)]
    mat4py.savemat(str(flowers / 'imagelabels.mat'), {'labels': [102 - number for number in numbers]})
    mat4py.savemat(str(flowers / 'setid.mat'), dict(zip(('trnid', 'valid', 'tstid'), splits, strict=True)))
    for folder, ends, line in (
        (pets / 'annotations', ('trainval', 'test'), 'cat_{} 37 1 1'),
        (nature / 'meta', ('train', 'val'), 'train_val2019/Birds/7/{}.jpg 1009'),
    ):
        folder.mkdir()
        for end, chosen in zip(ends, (splits[0] + splits[1], splits[2]), strict=True):
            (folder / f'{end}.txt').write_text('\n'.join(line.format(number) for number in chosen) + '\n')
    return {folder.name: folder for folder in (flowers, pets, nature)}


def walk(node: Any) -> Any:
    """Every dict inside a config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for part in node:
            yield from walk(part)


def scope_of(cfg: Config) -> str:
    """The scope of a config, whose library has to be there, as has timm where the backbone is timm's."""
    pytest.importorskip(cfg.default_scope)
    if cfg.model.get('backbone', {}).get('type') == 'mmvit_ext.TimmViT':
        pytest.importorskip('timm')
    return cfg.default_scope


def build_on_meta(cfg: Config) -> nn.Module:
    """The full-size model without its memory."""
    init_default_scope(scope_of(cfg))
    if cfg.model.get('backbone', {}).get('type') == 'SwinTransformer':  # computes with tensors while it is built
        return MODELS.build(cfg.model).to('meta')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def published_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels at which papers count, by the library that a config belongs to."""
    if cfg.default_scope == 'mmdet':
        return DETECTION_SIZE
    return cfg.crop_size if cfg.default_scope == 'mmseg' else (cfg.img_size, cfg.img_size)


def multiply_adds(cfg: Config, model: nn.Module, size: tuple[int, int]) -> float:
    """Multiply-adds of one image in units of 1e9: matrix products and convolutions, those of attention included.

    A two-stage detector is counted with 1000 proposals in its box head and 100 in its mask head, because the number of
    proposals is known only when there is an image, and with the pooling of their features left out.
    """
    img = torch.empty(1, 3, *size, device='meta')

    def step() -> None:
        if 'generator' in cfg.model:
            model.generator(torch.empty(1, model.generator.noise_dims, device='meta'))
        elif cfg.default_scope == 'mmseg':
            model.encode_decode(img, [{'img_shape': size}])
        elif 'roi_head' in cfg.model:
            _two_stages(model, img)
        else:
            model(img, mode='tensor')

    return count_flops(step) / 2e9


def _two_stages(model: nn.Module, img: Tensor) -> None:
    model.rpn_head(model.extract_feat(img))
    heads = model.roi_head
    counted = [(heads.bbox_roi_extractor, heads.bbox_head, BOX_PROPOSALS)]
    if heads.with_mask:
        counted.append((heads.mask_roi_extractor, heads.mask_head, MASK_PROPOSALS))
    for extractor, head, proposals in counted:
        edges = extractor.roi_layers[0].output_size
        head(torch.empty(proposals, extractor.out_channels, *edges, device='meta'))


def first_stage_attention(backbone: Any, size: tuple[int, int]) -> float:
    """Multiply-adds of the two products of attention in the first stage of a P2T, in units of 1e9: ``2 N M C``.

    Args:
        backbone: The P2T.
        size: Height and width of the image in pixels, multiples of 4.
    """
    stage, width = backbone.stages[0], backbone.embed_dims[0]
    height, width_px = size[0] // 4, size[1] // 4
    pooled = sum(
        max(1, round(height / ratio)) * max(1, round(width_px / ratio)) for ratio in stage.blocks[0].attn.pool_ratios
    )
    return 2 * height * width_px * pooled * width * len(stage.blocks) / 1e9


def shrink_transforms(cfg: Config) -> None:
    """Small pictures: resizing and cropping to :data:`EDGE`."""
    for node in walk(cfg._cfg_dict):
        kind = node.get('type')
        if kind in ('RandomResize', 'Resize'):
            node['scale'] = (4 * EDGE, EDGE)
        elif kind in ('ResizeShortestEdge', 'ResizeEdge', 'RandomResizedCrop'):
            node['scale'] = EDGE
        elif kind in ('RandomCrop', 'CenterCrop') and 'padding' not in node:  # CIFAR's images are small as they are
            node['crop_size'] = (EDGE, EDGE)


def shrink_model(model: dict) -> None:
    """Few and narrow layers; indices, stages and everything else stay as published."""
    model['backbone']['init_cfg'] = None
    if 'decode_head' in model:
        if 'size_divisor' not in model['data_preprocessor']:
            model['data_preprocessor']['size'] = (EDGE, EDGE)
        if 'norm_cfg' in model['decode_head']:
            model['decode_head']['norm_cfg'] = dict(type='BN')  # the synchronised one needs a GPU
    backbone = model['backbone']
    if 'EoMT' in model['type']:
        shrink_queries(model)
    elif backbone['type'] == 'mmvit_ext.P2T':
        backbone['arch'] = dict(PYRAMID)
        shrink_what_follows(model, PYRAMID['embed_dims'])
    elif backbone['type'] == 'mmvit_ext.NesT':
        shrink_what_follows(model, shrink_nest(backbone))
    elif backbone['type'] == 'mmvit_ext.TNT':
        shrink_what_follows(model, shrink_tnt(backbone))
    elif backbone['type'] == 'mmvit_ext.SPFormer':
        shrink_superpixel_model(model)
    elif backbone['type'] == 'mmvit_ext.TimmViT':
        shrink_what_follows(model, shrink_timm(backbone))
    elif backbone['type'] == 'mmdet.ResNet':
        backbone['base_channels'] = 8
        shrink_what_follows(model, (8, 16, 32, 64))
    else:
        shrink_plain_model(model)
    shrink_sliding_windows(model)


def shrink_queries(model: dict) -> None:
    """An encoder-only mask transformer: one block more than those that see the queries."""
    head, backbone = model['panoptic_head' if 'panoptic_head' in model else 'decode_head'], model['backbone']
    head.update(in_channels=WIDTH, num_queries=head.num_queries if head.get('fixed_matching') else 8, num_points=64)
    shrink_timm(backbone) if 'model' in backbone else backbone.update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS)
    backbone.update({'depth' if 'model' in backbone else 'num_layers': head['num_blocks'] + 1}, out_indices=-1)
    if 'panoptic_head' in model:
        model['data_preprocessor']['pad_size_divisor'] = 32


def shrink_generator(cfg: Config, extractor: tuple[Path, Path]) -> None:
    """Narrow levels, as many as before, so that the images keep their size.

    Args:
        cfg: The config.
        extractor: Config and checkpoint of the classifier whose features are compared.
    """
    generator = cfg.model.generator
    if generator.type == 'mmvit_ext.ConvGenerator':
        generator.embed_dims = (8,) * len(generator.embed_dims)
    else:
        edge = 64 if generator.arch == '64' else 4 * 2 ** (len(generator.arch.depths) - 1)
        levels = (edge // 4).bit_length()
        generator.arch = dict(embed_dims=(8,) * levels, num_heads=(2,) * levels, depths=(1,) * levels)
    cfg.model.discriminator.embed_dims = (8,) * len(cfg.model.discriminator.embed_dims)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.update(extractor=str(extractor[0]), checkpoint=str(extractor[1]))


def write_extractor(data: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """Config and checkpoint of a small untrained classifier."""
    cfg = small_config(config_named('nest-mini'), data, folder)
    init_default_scope(scope_of(cfg))
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'extractor_config.py')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, folder / 'extractor.pth')
    return folder / 'extractor_config.py', folder / 'extractor.pth'


def shrink_tnt(backbone: dict) -> list[int]:
    """Narrow layers in as many blocks; returns the widths of the maps."""
    layers = backbone['arch']['num_layers'] if isinstance(backbone['arch'], dict) else 12
    # 24 is divided by every number of inner heads that a config has.
    backbone['arch'] = dict(
        embed_dims_outer=WIDTH, embed_dims_inner=24, num_layers=layers, num_heads_outer=HEADS, num_heads_inner=4
    )
    backbone['img_size'] = EDGE
    indices = backbone.get('out_indices', -1)
    return [WIDTH] * (1 if isinstance(indices, int) else len(indices))


def shrink_timm(backbone: dict) -> list[int]:
    """Narrow layers in the blocks that are decoded and no others; returns the widths of the maps."""
    indices = backbone.get('out_indices', -1)
    depth = 1 if isinstance(indices, int) else len(indices)
    backbone.update(checkpoint=None, img_size=EDGE, embed_dim=WIDTH, num_heads=HEADS, mlp_ratio=2)
    backbone.update(depth=depth, out_indices=tuple(range(depth)))
    if 'shrink_index' in backbone and depth > 1:
        backbone['shrink_index'] = 1
    if 'frozen_stages' in backbone:
        backbone['frozen_stages'] = depth - 1
    return [WIDTH] * depth


def shrink_nest(backbone: dict) -> list[int]:
    """A layer in each of as many narrow levels; returns the widths of the maps."""
    if str(backbone['arch']).startswith('cifar'):
        widths = [8] * 4
        backbone.update(img_size=32, patch_size=1, block_size=4, multi_query=True)
    else:
        widths = [8, 16, 24]
        backbone.update(img_size=EDGE, block_size=4)
    backbone['arch'] = dict(embed_dims=list(widths), num_heads=[2] * len(widths), depths=[1] * len(widths))
    if 'extra_dims' in backbone:
        backbone['extra_dims'] = 32
        widths.append(32)
    indices = backbone['out_indices']
    return [widths[index] for index in ([indices] if isinstance(indices, int) else indices)]


def shrink_what_follows(model: dict, widths: Sequence[int]) -> None:
    """Necks and heads of any of the three libraries.

    Args:
        model: The model's config.
        widths: Those of the backbone's maps.
    """
    necks = model.get('neck') or []
    for neck in necks if isinstance(necks, list) else [necks]:
        if 'in_channels' in neck:
            neck['in_channels'] = list(widths) if isinstance(neck['in_channels'], list) else widths[-1]
        if 'out_channels' in neck:
            neck['out_channels'] = WIDTH
        if 'norm_cfg' in neck:
            neck['norm_cfg'] = dict(type='BN')
    if 'head' in model:
        model['head']['in_channels'] = widths[-1]
    if 'decode_head' in model:
        head = model['decode_head']
        if isinstance(head['in_channels'], list):
            head['in_channels'] = [WIDTH] * len(head['in_channels']) if necks else list(widths)
        else:
            head['in_channels'] = widths[-1]
        head['channels'] = WIDTH if head.get('num_convs') == 0 else WIDTH // 2  # without a layer they stay as they are
        if 'mla_channels' in head:
            head.update(mla_channels=WIDTH // 4, channels=WIDTH)
        if 'num_heads' in head:
            head['num_heads'] = HEADS
        if 'img_size' in head:
            head['img_size'] = EDGE
    for name in ('bbox_head', 'rpn_head'):
        if name in model:
            model[name].update(in_channels=WIDTH, feat_channels=WIDTH)
    if 'bbox_head' in model:
        model['bbox_head']['stacked_convs'] = 1
        model['test_cfg'].update(nms_pre=50, score_thr=0.0)
    if 'roi_head' in model:
        parts = model['roi_head']
        parts['bbox_roi_extractor']['out_channels'] = WIDTH
        parts['bbox_head'].update(in_channels=WIDTH, fc_out_channels=WIDTH)
        if parts['mask_head'] is not None:
            parts['mask_roi_extractor']['out_channels'] = WIDTH
            parts['mask_head'].update(in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1)
        model['train_cfg']['rpn_proposal'].update(nms_pre=50, max_per_img=20)
        model['test_cfg']['rpn'].update(nms_pre=50, max_per_img=20)
        model['test_cfg']['rcnn'].update(score_thr=0.0, max_per_img=10)


def shrink_superpixel_model(model: dict) -> None:
    """SPFormer with a classifier or with what classifies superpixels."""
    model['backbone'].update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2)
    model['decode_head' if 'decode_head' in model else 'head']['in_channels'] = WIDTH


def shrink_sliding_windows(model: dict) -> None:
    """Windows of :data:`EDGE` pixels with an overlap, where inference slides."""
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        test_cfg.update(crop_size=(EDGE, EDGE), stride=(EDGE * 3 // 4,) * 2)


def shrink_plain_model(model: dict) -> None:
    """A plain or windowed backbone with a decoder of tokens or a classifier."""
    backbone, head = model['backbone'], model['decode_head' if 'decode_head' in model else 'head']
    if backbone['type'] == 'SwinTransformer':
        factor = backbone['embed_dims'] // WIDTH
        backbone.update(embed_dims=WIDTH, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
    else:
        factor = {'tiny': 192, 'small': 384, 'base': 768, 'large': 1024}[backbone['arch']] / WIDTH
        backbone.update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2)
    widths = head['in_channels']
    shrink_what_follows(
        model, [round(w / factor) for w in widths] if isinstance(widths, list) else [round(widths / factor)]
    )


def small_config(path: Path, data: dict[str, Path], work_dir: Path) -> Config:
    """A config that trains one iteration on two mini images and evaluates two."""
    cfg = load(path)
    scope_of(cfg)
    if 'Panoptic' in cfg.train_dataloader.dataset.type:
        pytest.importorskip('panopticapi')
    if 'generator' in cfg.model:
        shrink_generator(cfg, write_extractor(data, work_dir))
    else:
        shrink_transforms(cfg)
        shrink_model(cfg.model)
    dataset = cfg.train_dataloader.dataset
    root = str(data.get(Path(dataset.data_root).name, data.get(dataset.type)))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=min(loader.batch_size, LEAST_BATCH))
        loader.dataset.update(data_root=root, indices=2)
    for evaluator in walk([cfg.val_evaluator, cfg.test_evaluator]):
        for name in {'seg_prefix', 'ann_file'} & set(evaluator):
            evaluator[name] = evaluator[name].replace(cfg.data_root, root)
    cfg.train_dataloader.batch_size = LEAST_BATCH
    cfg.train_cfg.update({'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters': 1}, val_interval=1)
    cfg.default_hooks.checkpoint.update(interval=1)
    if isinstance(cfg.param_scheduler, dict) and 'warmup' in cfg.param_scheduler:
        cfg.param_scheduler.warmup = (0, 1)  # otherwise the backbone stands still at first
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    cfg.experiment_name = path.stem.replace('.', '_') + f'_{id(cfg)}'
    return cfg
