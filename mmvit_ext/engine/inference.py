"""Predicting images one by one: a bad image is reported, the others are done, each result is whole."""

import copy
import glob
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from .checkpoint_io import atomic_path, extract_state_dict, metafile_hash, read_checkpoint
from .config import check_types, iter_dataset_cfgs, load_config, prepare_scope
from .drawing import draw_instances, draw_overlay, label_image, make_palette
from .errors import EXIT_BAD_INPUT, UserError, describe_failure
from .launch import discard_pretrained, writable_folder
from .pretrained import check_report, load_weights

__all__ = [
    'Outcome',
    'Predictor',
    'collect_images',
    'output_names',
    'predict_images',
    'process_images',
    'report_failures',
    'resolve_device',
]

MAX_SCORES = 2**28
"""Scores of pixels for classes, 1 GiB of them: above, a label map is made class by class. An image of 150 classes and
12 million pixels has 7 GB of scores."""
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')


@dataclass
class Outcome:
    """What became of the images.

    Args:
        written: The pictures that were written, in the order of the images.
        failed: Image and reason of those that could not be predicted.
        unknown: Traceback of the first failure whose reason is not known.
    """

    written: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    unknown: str | None = None


# Inputs and outputs


def collect_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files that files, folders and patterns name.

    Args:
        inputs: Files are taken as they are; of a folder, the images in it, sorted; a pattern may hold ``**``.

    Returns:
        Every file once, in the order given.

    Raises:
        UserError: An input does not exist, or names no image.
    """
    found: dict[str, Path] = {}
    for entry in inputs:
        path = Path(entry).expanduser()
        if path.is_dir():
            members = sorted(member for member in path.iterdir() if _is_image(member))
            if not members:
                raise UserError(
                    f'there is no image in the folder {path} (looked for {" ".join(SUFFIXES)}): name another '
                    f'folder, or its subfolders with the pattern "{path}/**/*.jpg"'
                )
        elif path.is_file():
            members = [path]
        elif path.exists():  # reading a pipe would wait for ever, reading a device never end
            raise UserError(f'{path} is no regular file: expected an image, a folder or a pattern')
        elif glob.has_magic(str(entry)):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            members = [match for match in matches if _is_image(match)]
            if not members:
                raise UserError(f'no image matches the pattern {entry}: check it, and write it in quotes')
        else:
            raise UserError(f'there is no image or folder {path}: check the path')
        for member in members:
            found.setdefault(os.path.realpath(member), member)
    return list(found.values())


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith('.')


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for each image's results; none is used twice, whatever the case.

    Args:
        paths: The images.

    Returns:
        The stem, where that is unique; with the suffix or a number added, where it is not.
    """
    count: dict[str, int] = {}
    for path in paths:
        count[path.stem.lower()] = count.get(path.stem.lower(), 0) + 1
    # A stem that is unique keeps its name, also against the made-up names of the others.
    taken = {stem for stem, number in count.items() if number == 1}
    names = []
    for path in paths:
        name = path.stem
        if count[name.lower()] > 1:
            base = name = f'{path.stem}_{path.suffix.lstrip(".")}'
            number = 2
            while name.lower() in taken:
                name, number = f'{base}_{number}', number + 1
            taken.add(name.lower())
        names.append(name)
    return names


def resolve_device(name: str | None) -> torch.device:
    """The device to run on.

    Args:
        name: As PyTorch writes it ('cpu', 'cuda', 'cuda:1'); ``None`` takes a GPU if there is one.

    Returns:
        The device.

    Raises:
        UserError: There is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device('cuda' if gpus else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device '{name}' is no device: expected cpu, cuda or cuda:0") from error
    if device.type == 'cuda' and (device.index or 0) >= gpus:
        available = f'there are {gpus} GPUs, counted from 0' if gpus else 'there is no usable GPU'
        raise UserError(f"--device '{name}' cannot be used, {available}: choose another or cpu")
    try:
        torch.empty(1, device=device)
    except Exception as error:
        raise UserError(f"--device '{name}' cannot be used here: choose cpu or cuda") from error
    return device


# The model


class Predictor:
    """A trained model with its test pipeline.

    Args:
        cfg: The config of the training run.
        checkpoint: The checkpoint file.
        device: Where to run, see :func:`resolve_device`.
        allow_partial: Go on when the checkpoint does not fit the model.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.

    Raises:
        UserError: The config or the checkpoint is wrong, or they do not belong together.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path,
        device: torch.device | None = None,
        *,
        allow_partial: bool = False,
        trust: bool = False,
    ) -> None:
        self.scope = prepare_scope(cfg)
        init_default_scope(self.scope)
        check_types(cfg, self.scope)
        self.device = device or resolve_device(None)
        content = read_checkpoint(checkpoint, trust=trust, expected_hash=metafile_hash(cfg.filename, checkpoint))
        state = extract_state_dict(content, checkpoint)
        self.model = _build_model(cfg)
        report = load_weights(self.model, state)
        check_report(
            report, f'the checkpoint {checkpoint}', 'the model of this config', strict=True, allow_partial=allow_partial
        )
        self.model.to(self.device).eval()
        self.classes, self.palette = _classes_and_palette(cfg, content, _class_count(self.model))
        self.model.dataset_meta = {'classes': self.classes, 'palette': self.palette}  # type: ignore[assignment]
        self._load, self._transform = _build_pipeline(cfg)
        self._cfg, self._visualizer = cfg, None

    @torch.no_grad()
    def __call__(self, path: str | Path) -> tuple[np.ndarray, Any]:
        """Predict an image.

        Args:
            path: The image file.

        Returns:
            The image as the training loader reads it (RGB, turned by its EXIF orientation), and the data sample that
            the model returns.

        Raises:
            UserError: The file cannot be read.
        """
        image, data = self.prepare(path)
        return image, self.model.test_step(data)[0]  # type: ignore[operator]

    def prepare(self, path: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read an image and put it through the test pipeline.

        Args:
            path: The image file.

        Returns:
            The image as the training loader reads it (RGB, turned by its EXIF orientation), and the batch of one that
            the model's ``test_step`` takes.

        Raises:
            UserError: The file cannot be read.
        """
        loaded = self._load({'img_path': str(path), 'img_id': 0})
        image = np.ascontiguousarray(loaded['img'][..., ::-1])
        packed = self.transform(loaded)
        if self.scope == 'mmpretrain':
            return image, default_collate([packed])
        return image, {'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}

    def transform(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Put an image that has been read through the rest of the test pipeline.

        Args:
            loaded: With ``img`` (H, W, 3; BGR) and what else a loader tells.

        Returns:
            The sample with ``inputs`` (3, h, w) and ``data_samples``.
        """
        packed: dict[str, Any] = self._transform(loaded)
        return packed

    def segment(self, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
        """Predict the classes of an image's pixels.

        Args:
            path: The image file.

        Returns:
            The image (H, W, 3; RGB) and the class index of each of its pixels (H, W).

        Raises:
            UserError: The file cannot be read, or the model is none for segmentation.
        """
        image, data = self.prepare(path)
        sample = data['data_samples'][0] if self.scope == 'mmseg' else None
        enlarge = sample is not None and len(self.classes) * image.shape[0] * image.shape[1] > MAX_SCORES
        if enlarge:
            sample.set_metainfo({'ori_shape': sample.img_shape})  # type: ignore[union-attr]
        with torch.no_grad():
            sample = self.model.test_step(data)[0]  # type: ignore[operator]
        if not hasattr(sample, 'pred_sem_seg'):
            raise UserError(f'the model of scope {self.scope} does not predict classes of pixels: use an mmseg config')
        labels = sample.pred_sem_seg.data.squeeze(0)
        if enlarge and len(sample.seg_logits.data) > 1:
            align = bool(getattr(self.model, 'align_corners', False))
            labels = _best_classes(sample.seg_logits.data, image.shape[:2], align)
        elif enlarge:
            labels = F.interpolate(labels[None, None].float(), size=image.shape[:2], mode='nearest')[0, 0]
        return image, labels.cpu().numpy().astype(np.int64)

    def draw(
        self, path: str | Path, opacity: float, legend: bool, score_threshold: float = 0.3
    ) -> tuple[Image.Image, Image.Image | None]:
        """Predict an image and draw the result.

        Args:
            path: The image file.
            opacity: Of the class colours, 0 to 1.
            legend: Whether to name the classes: below the picture for segmentation, at the boxes for detection.
            score_threshold: Least score, 0 to 1, of the objects that are drawn (detection).

        Returns:
            The picture, and for segmentation the label map.
        """
        if self.scope == 'mmseg':
            image, labels = self.segment(path)
            picture = draw_overlay(image, labels, self.classes, self.palette, opacity=opacity, legend=legend)
            return picture, label_image(labels, self.palette)
        image, sample = self(path)
        instances = getattr(sample, 'pred_instances', None)
        if instances is not None and 'bboxes' in instances and instances.bboxes.shape[-1] == 4:
            chosen = instances[instances.scores >= score_threshold].cpu()
            picture = draw_instances(
                image,
                chosen.bboxes.numpy(),
                chosen.labels.numpy(),
                self.classes,
                self.palette,
                scores=chosen.scores.numpy(),
                masks=chosen.masks.numpy() if 'masks' in chosen else None,
                opacity=opacity,
                names=legend,
            )
            return picture, None
        visualizer = self._library_visualizer()
        if self.scope == 'mmpretrain':
            return Image.fromarray(visualizer.visualize_cls(image, sample, classes=self.classes, draw_gt=False)), None
        visualizer.add_datasample(
            'prediction', image, data_sample=sample.cpu(), draw_gt=False, pred_score_thr=score_threshold
        )
        return Image.fromarray(visualizer.get_image()), None

    def _library_visualizer(self) -> Any:
        if self._visualizer is None:
            self._visualizer = _build_visualizer(self._cfg, self.classes, self.palette)
        return self._visualizer


def _build_model(cfg: Config) -> nn.Module:
    config = copy.deepcopy(cfg.model)
    discard_pretrained(config)
    if cfg.get('default_scope') == 'mmseg' or config.get('train_cfg') is None:
        config.pop('train_cfg', None)  # not every model has that argument
    if 'data_preprocessor' not in config and cfg.get('data_preprocessor'):
        preprocessor = copy.deepcopy(cfg.data_preprocessor)
        if cfg.get('default_scope') == 'mmpretrain':
            preprocessor.setdefault('type', 'ClsDataPreprocessor')
        config['data_preprocessor'] = preprocessor
    return revert_sync_batchnorm(MODELS.build(config))


def _class_count(model: nn.Module) -> int | None:
    for name in ('decode_head', 'bbox_head', 'head'):
        head = getattr(model, name, None)
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


def _best_classes(scores: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    """Class with the largest score of each pixel, from ``(N, h, w)`` scores that are resized one after another."""
    best = labels = torch.empty(0)
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
    steps = _without_labels(steps)
    if _kind(steps[0]).rpartition('.')[2] != 'LoadImageFromFile':
        raise UserError(
            f"the first step of the config's test pipeline is {_kind(steps[0])}: expected LoadImageFromFile, "
            'images from files cannot be predicted otherwise'
        )
    first = {
        key: value for key, value in steps[0].items() if key not in ('type', 'imdecode_backend', 'file_client_args')
    }
    return Compose([{'type': 'mmvit_ext.LoadImageFromFile', **first}]), Compose(steps[1:])


def _without_labels(pipeline: Any) -> Any:
    """The steps of a pipeline, those of several views too, but for those that load labels."""
    if isinstance(pipeline, Mapping):
        return {key: _without_labels(value) for key, value in pipeline.items()}
    if isinstance(pipeline, list | tuple):
        kept = [_without_labels(step) for step in pipeline if not _loads_labels(step)]
        return type(pipeline)(step for step in kept if not (isinstance(step, list) and not step))
    return pipeline


def _loads_labels(step: Any) -> bool:
    loaders = ('LoadAnnotations', 'LoadSegAnnotations', 'LoadBoxes')
    return isinstance(step, Mapping) and any(loader in _kind(step) for loader in loaders)


def _kind(step: Mapping[str, Any]) -> str:
    kind = step.get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def _build_visualizer(cfg: Config, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Any:
    config = copy.deepcopy(cfg.get('visualizer'))
    if not config:
        raise UserError('the config has no visualizer: it draws the predictions, add it from the default runtime file')
    config.update(name=f'predict_{id(cfg)}', vis_backends=None)
    visualizer = VISUALIZERS.build(config)
    visualizer.dataset_meta = {'classes': tuple(classes), 'palette': [tuple(colour) for colour in palette]}
    return visualizer


# The command


def predict_images(
    config: str | Path,
    checkpoint: str | Path,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    opacity: float = 0.5,
    legend: bool = True,
    save_mask: bool = False,
    score_threshold: float = 0.3,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    progress: bool = True,
) -> Outcome:
    """Predict images and write pictures of the results.

    Args:
        config: The config of the training run.
        checkpoint: The checkpoint file.
        inputs: Images, folders and patterns.
        out: Folder of the results: ``overlays/NAME.png`` and, with ``save_mask``, ``labels/NAME.png``.
        opacity: Of the class colours, 0 to 1.
        legend: Whether to name the classes: below each picture for segmentation, at the boxes for detection.
        save_mask: Whether to write label maps, whose pixel values are class indices from 0 (segmentation only).
        score_threshold: Least score, 0 to 1, of the objects that are drawn (detection only).
        device: Where to run, see :func:`resolve_device`.
        cfg_options: Overrides of the config, by dotted key.
        allow_partial: Go on when the checkpoint does not fit the model.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        What was written and what failed. One bad image does not keep the others from being done.

    Raises:
        UserError: The arguments, the config or the checkpoint are wrong. Nothing has been written then.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f'--opacity must be 0 to 1, got {opacity}')
    if not 0 <= score_threshold <= 1:
        raise UserError(f'--score-threshold must be 0 to 1, got {score_threshold}')
    cfg = load_config(config, cfg_options)
    paths = collect_images(inputs)
    folder = writable_folder(out, '--out')
    chosen = resolve_device(device)
    if save_mask and cfg.get('default_scope') != 'mmseg':
        raise UserError(
            f'--save-mask is for segmentation, {config} is of scope {cfg.get("default_scope")}: leave it out'
        )
    predictor = Predictor(cfg, checkpoint, chosen, allow_partial=allow_partial, trust=trust)

    def work(path: Path, name: str) -> Path:
        picture, labels = predictor.draw(path, opacity, legend, score_threshold)
        written = folder / 'overlays' / f'{name}.png'
        with atomic_path(written) as file:
            picture.save(file)
        if save_mask and labels is not None:
            with atomic_path(folder / 'labels' / f'{name}.png') as file:
                labels.save(file)
        return written

    return process_images(paths, work, 'predicting', progress=progress)


def process_images(
    paths: Sequence[Path], work: Callable[[Path, str], Path], title: str, *, progress: bool = True
) -> Outcome:
    """Do the same with each image; one bad image does not keep the others from being done.

    Args:
        paths: The images.
        work: Takes an image and the name of its results, see :func:`output_names`; returns the file it wrote.
        title: Stands before the progress bar.
        progress: Whether to show that bar on stderr.

    Returns:
        What was written and what failed.
    """
    outcome = Outcome()
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        for path, name in zip(bar.track(paths), output_names(paths), strict=True):
            try:
                outcome.written.append(work(path, name))
            except Exception as error:
                reason = describe_failure(error)
                if reason is None:
                    outcome.unknown = outcome.unknown or traceback.format_exc()
                    reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
                outcome.failed.append((path, reason))
    return outcome


def report_failures(outcome: Outcome, name: str) -> int:
    """List on stderr the images that failed.

    Args:
        outcome: What became of the images.
        name: The command's name, written before the list.

    Returns:
        The command's exit code: 0 when nothing failed, 1 for a failure whose reason is not known, otherwise 2.
    """
    if not outcome.failed:
        return 0
    print(f'{name}: error: {len(outcome.failed)} images failed:', file=sys.stderr)
    for path, reason in outcome.failed:
        print(f'  {path}: {reason}', file=sys.stderr)
    if outcome.unknown:
        print(outcome.unknown, file=sys.stderr)
        return 1
    return EXIT_BAD_INPUT
