"""The Python interface: load a model by name, config or training folder, predict images, take its features."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from PIL import Image, ImageOps
from torch import Tensor

from mmvit_ext.config.building import discard_pretrained, resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.config.zoo import entry_of, task_config
from mmvit_ext.datasets.transforms import WIDE_MODES
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import collect_images
from mmvit_ext.inference.predictor import Predictor

__all__ = ['LoadedModel', 'Result', 'load']

CLASSES = {'seg': 150, 'det': 80, 'inst': 80, 'cls': 1000}
"""Numbers of classes of a model that has a name and no checkpoint."""


def load(
    name_or_config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    *,
    num_classes: int | None = None,
    size: int | None = None,
    trust: bool = False,
    allow_partial: bool = False,
) -> LoadedModel:
    """Load a model for prediction.

    Args:
        name_or_config: A name of :func:`mmvit_ext.list_models`, a config file or an mmengine config, or the folder of a
            finished ``mmvit train``, whose config and best checkpoint are taken.
        checkpoint: Checkpoint file of the whole model. ``'timm'`` takes a named model's backbone with the weights that
            timm publishes. None leaves random weights, whatever the config says of pretrained ones, which is warned of.
        device: 'cpu', 'cuda' or 'cuda:1'; a GPU if there is one by default.
        num_classes: Number of classes of a named model; those of ADE20K, COCO or ImageNet by default.
        size: Shorter side in pixels to which a named model brings an image, within four times that on the longer one;
            by default images are brought within 853x512 or, for detection, 1333x800 pixels. A classifier sees the
            middle, of 224 pixels by default, of an image with a shorter side of 8/7 of that.
        trust: Read a checkpoint that holds more than tensors, which runs code from it.
        allow_partial: Take a checkpoint that fits the model in part only.

    Raises:
        UserError: The name, the config or the checkpoint is wrong, or they do not belong together.
    """
    if isinstance(name_or_config, str | Path):
        name_or_config = Path(os.path.expanduser(name_or_config))
    if isinstance(name_or_config, Config):
        cfg = copy.deepcopy(name_or_config)
    elif Path(name_or_config).is_dir():
        path, newest = _training(Path(name_or_config))
        cfg, checkpoint = load_config(path), checkpoint or newest
    elif Path(name_or_config).suffix:
        cfg = load_config(name_or_config)
    else:
        if any(value is not None and value < 1 for value in (num_classes, size)):
            raise UserError(f'num_classes and size must be above 0, got {num_classes} and {size}')
        task = entry_of(str(name_or_config)).task
        cfg = Config(task_config(str(name_or_config), CLASSES[task] if num_classes is None else num_classes, size))
        num_classes = size = None
    if num_classes is not None or size is not None:
        raise UserError('num_classes and size go with the name of a model: a config says them itself')
    if 'generator' in cfg.model:
        raise UserError(f'{cfg.model.get("type")} makes images and takes none: mmvit generate runs it')
    if checkpoint == 'timm':
        if not str(cfg.model.backbone.get('type')).endswith('TimmViT'):
            raise UserError(f"checkpoint='timm': the backbone of {name_or_config} is none of timm's: give a file")
        cfg.model.backbone.checkpoint = 'timm'
        checkpoint = None
    elif checkpoint is None:
        name = (name_or_config.filename or 'the config') if isinstance(name_or_config, Config) else name_or_config
        warnings.warn(f'{name} has random weights: give a checkpoint to predict with it', stacklevel=2)
        discard_pretrained(cfg.model)
    return LoadedModel(Predictor(cfg, checkpoint, resolve_device(device), trust=trust, allow_partial=allow_partial))


def _training(folder: Path) -> tuple[Path, Path]:
    """Config and best checkpoint of a training's folder."""
    configs = sorted(folder.glob('setup/*.py')) or sorted(folder.glob('*.py'))
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if len(configs) != 1 or not best:
        found = f'{len(configs)} configs and {len(best)} best checkpoints'
        raise UserError(f'{folder} has {found}: give the config and the checkpoint themselves')
    return configs[0], best[-1]


@dataclass
class Result:
    """What a model finds in an image; what its task does not have is None.

    Attributes:
        image: The image as it was given, RGB (H, W, 3), 8 bit.
        classes: Names of all classes.
        labels: Segmentation: class index of each pixel (H, W), -1 where a panoptic model finds nothing. Detection: of
            each object (n,). Classification: of the five most probable classes, best first.
        scores: Scores of the objects or of these classes, 0 to 1.
        boxes: Boxes of the objects (n, 4): left, top, right, bottom in pixels.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray | None = None
    boxes: np.ndarray | None = None
    _object_masks: np.ndarray | None = None
    _predictor: Predictor | None = field(default=None, repr=False)
    _sample: Any = field(default=None, repr=False)

    @cached_property
    def masks(self) -> np.ndarray | None:
        """Masks, bool: of each object (n, H, W), or in segmentation of each class (number of classes, H, W)."""
        if self.labels.ndim == 2:
            return self.labels == np.arange(len(self.classes))[:, None, None]
        return self._object_masks

    def draw(self, *, opacity: float = 0.5, legend: bool = True, score_threshold: float = 0.3) -> Image.Image:
        """Draw the result over the image, as ``mmvit predict`` does.

        Args:
            opacity: Of the colours, 0 to 1.
            legend: Whether names are drawn.
            score_threshold: Least score of the objects drawn.
        """
        assert self._predictor is not None
        labels = self.labels if self.labels.ndim == 2 else None
        return self._predictor.picture(self.image, self._sample, labels, opacity, legend, score_threshold)


class LoadedModel:
    """A model with what prepares its images; made by :func:`load`.

    Attributes:
        classes: Names of the classes.
        device: Where it runs.
        model: The network, of class ``torch.nn.Module``.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.classes, self.device, self.model = tuple(predictor.classes), predictor.device, predictor.model

    def predict(self, image: Any, *, channel_order: str = 'rgb') -> Any:
        """Predict one image or several; they are brought to the network's size and back one after another.

        Args:
            image: A path, a PIL image, an array (H, W) or (H, W, C) of uint8, or a list of these; an array
                (N, H, W, C); the path of a folder or a pattern, which stand for all images there.
            channel_order: 'rgb' or 'bgr', of the colours of arrays.

        Returns:
            A :class:`Result`, or a list of them where several images were given.

        Raises:
            UserError: What was given is no image, or not of the channels that the model takes.
        """
        images, several = _listed(image)
        results = [self._predict(one, channel_order) for one in images]
        return results if several else results[0]

    def _predict(self, image: Any, channel_order: str) -> Result:
        predictor, loaded = self._predictor, self._load(image, channel_order)
        classes = tuple(predictor.classes)
        if predictor.scope == 'mmseg':
            picture, labels = predictor.segment(loaded)
            return Result(picture, classes, labels, _predictor=predictor)
        picture, sample = predictor(loaded)
        sample = sample.cpu()
        kept: dict[str, Any] = dict(_predictor=predictor, _sample=sample)
        if predictor.scope == 'mmpretrain':
            scores = sample.pred_score.numpy()
            best = np.argsort(-scores, kind='stable')[:5]
            return Result(picture, classes, best, scores[best], **kept)
        if 'pred_instances' not in sample:
            return Result(picture, classes, predictor.panoptic_classes(sample), _predictor=predictor)
        found = sample.pred_instances.numpy()
        masks = found.masks if 'masks' in found else None
        return Result(picture, classes, found.labels, found.scores, found.bboxes, masks, **kept)

    @torch.no_grad()
    def features(
        self, image: Any, indices: int | str | Sequence[int | str] | None = None, *, channel_order: str = 'rgb'
    ) -> Any:
        """Feature maps of an image inside the backbone.

        Args:
            image: As in :meth:`predict`.
            indices: Numbers of blocks, negative ones from the end, or names of maps; None for all blocks.
            channel_order: 'rgb' or 'bgr', of the colours of arrays.

        Returns:
            Maps ``(1, C, h, w)`` by name, or a list of such dicts where several images were given.

        Raises:
            UserError: The image is wrong, or the backbone is none of this package.
            ValueError: There is no such block.
        """
        backbone: Any = getattr(self.model, 'backbone', None)
        if not hasattr(backbone, 'forward_intermediates'):
            kind = type(backbone).__name__
            raise UserError(f'{kind} gives no features of its blocks: the backbones of mmvit_ext do')
        images, several = _listed(image)
        results: list[dict[str, Tensor]] = []
        for one in images:
            data = self._predictor.prepare(self._load(one, channel_order))[1]
            inputs = self.model.data_preprocessor(data, False)['inputs']  # type: ignore[operator]
            results.append(backbone.forward_intermediates(inputs, indices))
        return results if several else results[0]

    def _load(self, image: Any, channel_order: str) -> dict[str, Any]:
        """An image as the loader of the test pipeline gives it."""
        if channel_order not in ('rgb', 'bgr'):
            raise UserError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r}")
        if isinstance(image, str | Path):
            return self._predictor.load(image)
        channels = self._predictor.channels
        if isinstance(image, Image.Image):
            as_it_is = self._predictor.takes_any_values  # a file is not turned then, either
            if image.mode in WIDE_MODES and not as_it_is:
                raise UserError(f'the image has 16 or more bits per pixel (mode {image.mode}): convert it to 8 bit')
            mode = None if as_it_is else {1: 'L', 3: 'RGB'}.get(channels)
            image = image if as_it_is else ImageOps.exif_transpose(image)
            image, channel_order = np.asarray(image.convert(mode) if mode else image), 'rgb'
        if isinstance(image, Tensor):
            raise UserError(
                'a tensor is no image here: give an array (H, W, C) of uint8, tensor.permute(1, 2, 0).numpy()'
            )
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            given = f'an array of shape {image.shape}' if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f'{given} is no image: expected a path, a PIL image or an array (H, W) or (H, W, C)')
        if image.dtype != np.uint8 and not self._predictor.takes_any_values:
            raise UserError(f'the array is of {image.dtype}: expected uint8 with values 0 to 255')
        image = image if image.dtype == np.uint8 else image.astype(np.float32)  # as the loader of files
        return self._predictor.load(_with_channels(image, channels, channel_order))


def _listed(image: Any) -> tuple[list[Any], bool]:
    """The images that were given, and whether they were several."""
    if isinstance(image, list | tuple) or (isinstance(image, np.ndarray) and image.ndim == 4):
        return list(image), True
    if isinstance(image, str | Path):
        paths: list[Any] = list(collect_images([image]))
        return paths, not Path(os.path.expanduser(image)).is_file()
    return [image], False


def _with_channels(image: np.ndarray, channels: int, order: str) -> np.ndarray:
    """An array with the channels of the model, colours as B, G, R and grey as (H, W)."""
    found = 1 if image.ndim == 2 else image.shape[2]
    image = image[..., 0] if image.ndim == 3 and found == 1 else image
    if found >= 3 and order == 'rgb':
        image = np.concatenate([image[..., 2::-1], image[..., 3:]], -1)
    if (found, channels) in ((3, 1), (4, 1)):
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    if channels == 3 and found in (1, 4):
        image = image[..., :3] if found == 4 else np.stack([image] * 3, -1)
    elif found != channels:
        raise UserError(f'the array has {found} channels and the model takes {channels}: convert it')
    return np.ascontiguousarray(image)
