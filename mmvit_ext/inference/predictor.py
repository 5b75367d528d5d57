"""A trained model with its test pipeline, which predicts images and draws the results."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, VISUALIZERS
from PIL import Image
from torch import nn

from mmvit_ext.checkpoints.reading import extract_state_dict, metafile_hash, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checks.before_run import check_types
from mmvit_ext.checks.normalisation import check_normalisation
from mmvit_ext.config.adjust import set_tta_pipeline
from mmvit_ext.config.building import build_model, resolve_device
from mmvit_ext.config.loading import prepare_scope
from mmvit_ext.config.walking import iter_dataset_cfgs, step_name, without_labels
from mmvit_ext.datasets.transforms import image_loader
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.backbones.base import image_channels

from .drawing import as_picture, draw_instances, draw_overlay, label_image, make_palette

__all__ = ['MAX_SCORES', 'Predictor', 'TTAPredictor', 'enlarged_labels']

MAX_SCORES = 2**28  # of pixels for classes, 1 GiB of them: above, a label map is made class by class
PANOPTIC_OFFSET = 1000  # mmdet's: a segment's number is that of its class and this times that of the object


class Predictor:
    """A trained model with its test pipeline; ``allow_partial`` and ``trust`` are those of the commands.

    Without a checkpoint it has the weights with which a training would begin.
    """

    returns_scores = True
    """Whether ``seg_logits`` of a prediction are what its labels were chosen by."""

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path | None,
        device: torch.device | None = None,
        *,
        allow_partial: bool = False,
        trust: bool = False,
    ) -> None:
        self.scope = prepare_scope(cfg)
        check_types(cfg, self.scope)
        for line in check_normalisation(cfg, self.scope, 'test'):
            print_log(line, 'current', logging.WARNING)
        self.device = device or resolve_device(None)
        content: Mapping[str, Any] = {}
        if checkpoint is None:
            model: Any = build_model(cfg, pretrained=True)
            model._dump_init_info = dict  # mmengine would log a few lines of each parameter
            model.init_weights()
            del model._dump_init_info
            self.model: nn.Module = model
        else:
            content = read_checkpoint(checkpoint, trust=trust, expected_hash=metafile_hash(cfg.filename, checkpoint))
            state = extract_state_dict(content, checkpoint)
            self.model = build_model(cfg)
            source, target = f'the checkpoint {checkpoint}', 'the model of this config'
            check_report(load_weights(self.model, state), source, target, strict=True, allow_partial=allow_partial)
        self.model.to(self.device).eval()
        self.classes, self.palette = _classes_and_palette(cfg, content, _class_count(self.model))
        self.model.dataset_meta = {'classes': self.classes, 'palette': self.palette}  # type: ignore[assignment]
        self.channels = image_channels(self.model)
        #: Puts a loaded image through the steps after the loader; the sample has ``inputs`` and ``data_samples``.
        self.transform: Callable[[dict[str, Any]], dict[str, Any]]
        self._load, self.transform = _build_pipeline(cfg)
        self._cfg = cfg
        self._visualizer: Any = None

    @property
    def takes_any_values(self) -> bool:
        """Whether images may have other values than 8 bit."""
        return self._load.color_type == 'unchanged'

    def load(self, source: str | Path | np.ndarray) -> dict[str, Any]:
        """Read an image file as the test pipeline does: ``img`` (H, W) or (H, W, C), of three channels BGR.

        An array is taken as what such a file holds.
        """
        known = {'img': source, 'img_path': None} if isinstance(source, np.ndarray) else {'img_path': str(source)}
        loaded: dict[str, Any] = self._load({**known, 'img_id': 0})
        return loaded

    def prepare(self, source: str | Path | Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """An image, a file or what :meth:`load` gave, as a picture (H, W, 3; RGB), and as a batch for ``test_step``."""
        loaded = self.load(source) if isinstance(source, str | Path) else dict(source)
        image = as_picture(loaded['img'])
        packed = self.transform(loaded)
        self._check_channels(packed['inputs'], loaded.get('img_path'))
        if self.scope == 'mmpretrain':
            return image, default_collate([packed])
        return image, {'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}

    def _check_channels(self, inputs: Any, path: str | None) -> None:
        """Refuse an image of other channels than the model takes; a mean of several values widens a grey one."""
        found = int((inputs[0] if isinstance(inputs, list) else inputs).shape[-3])
        mean = getattr(getattr(self.model, 'data_preprocessor', None), 'mean', None)
        if (max(found, len(mean)) if found == 1 and mean is not None else found) != self.channels:
            takes = f'the model takes {self.channels}: convert it, or set color_type of LoadImageFromFile in the config'
            raise UserError(f'the image {path} has {found} channels as it is loaded and {takes}')

    @torch.no_grad()
    def __call__(self, source: str | Path | Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Predict an image, see :meth:`prepare`: the image (RGB), and the data sample that the model returns."""
        image, data = self.prepare(source)
        return image, self.model.test_step(data)[0]  # type: ignore[operator]

    @torch.no_grad()
    def segment(self, source: str | Path | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Predict an image, see :meth:`prepare`: the image (H, W, 3; RGB) and the class index of each pixel (H, W)."""
        image, data = self.prepare(source)
        size = image.shape[:2]
        enlarge = self.scope == 'mmseg' and len(self.classes) * size[0] * size[1] > MAX_SCORES
        if enlarge:
            self._score_smaller(data['data_samples'], size)
        sample = self.model.test_step(data)[0]  # type: ignore[operator]
        if not hasattr(sample, 'pred_sem_seg'):
            raise UserError(f'the model of scope {self.scope} does not predict classes of pixels: use an mmseg config')
        labels = sample.pred_sem_seg.data.squeeze(0)
        if enlarge:
            scores = sample.seg_logits.data if self.returns_scores else labels[None]
            labels = enlarged_labels(labels, scores, size, bool(getattr(self.model, 'align_corners', False)))
        return image, labels.cpu().numpy().astype(np.int64)

    def _score_smaller(self, samples: list[Any], size: tuple[int, int]) -> None:
        """Let the scores of an image of this size be those of its network's input."""
        samples[0].set_metainfo({'ori_shape': samples[0].img_shape})

    def panoptic_classes(self, sample: Any) -> np.ndarray:
        """The class index of each pixel (H, W) of a panoptic prediction, -1 where it has no segment."""
        classes = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy().astype(np.int64) % PANOPTIC_OFFSET
        return np.where(classes < len(self.classes), classes, -1)

    def draw(
        self, path: str | Path, opacity: float, legend: bool, score_threshold: float = 0.3
    ) -> tuple[Image.Image, Image.Image | None]:
        """Predict an image file and draw the result; for segmentation the second picture is the label map."""
        if self.scope == 'mmseg':
            image, labels = self.segment(path)
            return self.picture(image, None, labels, opacity, legend), label_image(labels, self.palette)
        return self.picture(*self(path), None, opacity, legend, score_threshold), None

    def picture(
        self,
        image: np.ndarray,
        sample: Any,
        labels: np.ndarray | None,
        opacity: float,
        legend: bool,
        score_threshold: float = 0.3,
    ) -> Image.Image:
        """Draw what :meth:`segment` (labels) or a call (a sample) has found in an image."""
        if labels is not None:
            return draw_overlay(image, labels, self.classes, self.palette, opacity=opacity, legend=legend)
        instances = getattr(sample, 'pred_instances', None)
        if instances is not None and 'bboxes' in instances and instances.bboxes.shape[-1] == 4:
            chosen = instances[instances.scores >= score_threshold].cpu().numpy()
            masks = chosen.masks if 'masks' in chosen else None
            arguments = (image, chosen.bboxes, chosen.labels, self.classes, self.palette)
            return draw_instances(*arguments, scores=chosen.scores, masks=masks, opacity=opacity, names=legend)
        if self.scope == 'mmdet' and 'pred_panoptic_seg' in sample:
            return self.picture(image, None, self.panoptic_classes(sample), opacity, legend)
        if self._visualizer is None:
            self._visualizer = _build_visualizer(self._cfg, self.classes, self.palette)
        if self.scope == 'mmpretrain':
            drawn = self._visualizer.visualize_cls(image, sample, classes=self.classes, draw_gt=False)
            return Image.fromarray(drawn)
        self._visualizer.add_datasample(
            'prediction', image, data_sample=sample.cpu(), draw_gt=False, pred_score_thr=score_threshold
        )
        return Image.fromarray(self._visualizer.get_image())


class TTAPredictor(Predictor):
    """A model that merges its predictions of several views, by ``tta_pipeline`` and ``tta_model`` of the config."""

    returns_scores = False  # of the last view

    def __init__(self, cfg: Config, *arguments: Any, **settings: Any) -> None:
        cfg = copy.deepcopy(cfg)
        set_tta_pipeline(cfg)
        super().__init__(cfg, *arguments, **settings)
        self.model = MODELS.build({**cfg.tta_model, 'module': self.model}).eval()

    def prepare(self, source: str | Path | Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """As of one view; the batch has a list of batches of one under each key, one per view."""
        image, batch = super().prepare(source)
        return image, {key: [[view] for view in views] for key, (views,) in batch.items()}

    def _score_smaller(self, samples: list[Any], size: tuple[int, int]) -> None:
        """Views of several sizes are merged at one, as large as :data:`MAX_SCORES` allows."""
        share = (MAX_SCORES / (len(self.classes) * size[0] * size[1])) ** 0.5
        for (view,) in samples:
            view.set_metainfo({'ori_shape': (max(int(size[0] * share), 1), max(int(size[1] * share), 1))})


def _class_count(model: nn.Module) -> int | None:
    for name in ('decode_head', 'bbox_head', 'head', 'roi_head', 'panoptic_head'):
        head = getattr(model, name, None)
        head = getattr(head, 'bbox_head', head)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        if isinstance(getattr(head, 'num_classes', None), int):
            return int(head.num_classes)  # type: ignore[union-attr, arg-type]
    return None


def _classes_and_palette(
    cfg: Config, content: Mapping[str, Any], count: int | None
) -> tuple[list[str], list[Sequence[int]]]:
    """Names and colours: of the checkpoint, of the config's dataset, or made up, in this order."""
    meta = _mapping(content.get('meta'))
    candidates: list[Mapping[str, Any]] = [
        _mapping(meta.get('dataset_meta')),
        {'classes': meta.get('CLASSES'), 'palette': meta.get('PALETTE')},
    ]
    for split in ('test', 'val', 'train'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in iter_dataset_cfgs(loader.get('dataset'), split):
            # Looking up, unlike building, does not go by the default scope on its own.
            with DATASETS.switch_scope_and_registry(None) as registry:
                cls = registry.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
            candidates.append({**(getattr(cls, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})})
    for candidate in candidates:
        classes = candidate.get('classes')
        if not isinstance(classes, list | tuple) or not classes or len(classes) != (count or len(classes)):
            continue
        palette = candidate.get('palette')
        # mmdet also has names of palettes, and a checkpoint holds what its author put there.
        colours = list(palette)[: len(classes)] if isinstance(palette, list | tuple) else []
        if len(colours) < len(classes) or not all(map(_is_colour, colours)):
            colours = list(make_palette(len(classes)))
        return list(map(str, classes)), colours
    number = count or 0
    return [f'class {index}' for index in range(number)], list(make_palette(number))


def enlarged_labels(
    labels: torch.Tensor, scores: torch.Tensor, size: tuple[int, int], align_corners: bool
) -> torch.Tensor:
    """Class with the largest score of each pixel, from ``(N, h, w)`` scores that are resized one after another.

    Where there is one map only, the ``labels`` ``(h, w)`` themselves are enlarged.
    """
    if len(scores) == 1:
        return F.interpolate(labels[None, None].float(), size=size, mode='nearest')[0, 0]
    best = torch.empty(0)
    for index, score in enumerate(scores):
        resized = F.interpolate(score[None, None], size=size, mode='bilinear', align_corners=align_corners)[0, 0]
        if index == 0:
            best, labels = resized, torch.zeros(size, dtype=torch.int32, device=scores.device)
        else:
            better = resized > best
            labels[better] = index
            best = torch.where(better, resized, best)
    return labels


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_colour(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and all(isinstance(part, int) for part in value)
    return whole and len(value) == 3 and 0 <= min(value) <= max(value) <= 255


def _build_pipeline(cfg: Config) -> tuple[Any, Compose]:
    """The step that reads the image, and the steps after it."""
    loader = cfg.get('test_dataloader') or {}
    datasets = [dataset for _, dataset in iter_dataset_cfgs(loader.get('dataset'), 'test')]
    steps = copy.deepcopy(datasets[0].get('pipeline') if datasets else cfg.get('test_pipeline'))
    if not steps:
        raise UserError('the config has no test_dataloader.dataset.pipeline: it says how an image is prepared')
    steps = without_labels(steps)
    if (first := step_name(steps[0])).rpartition('.')[2] != 'LoadImageFromFile':
        raise UserError(f"the first step of the config's test pipeline is {first}: expected LoadImageFromFile")
    return image_loader(steps[0]), Compose(steps[1:])


def _build_visualizer(cfg: Config, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Any:
    config = copy.deepcopy(cfg.get('visualizer'))
    if not config:
        raise UserError('the config has no visualizer: it draws the predictions, add it from the default runtime file')
    config.update(name=f'predict_{id(cfg)}', vis_backends=None)
    visualizer = VISUALIZERS.build(config)
    visualizer.dataset_meta = {'classes': tuple(classes), 'palette': [tuple(colour) for colour in palette]}
    return visualizer
