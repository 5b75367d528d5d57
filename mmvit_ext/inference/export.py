"""A trained model as a graph for other programs: torch.export and ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.models.backbones.base import image_channels

from .graph_forms import with_graph_forms

__all__ = [
    'SAME_DETECTIONS',
    'TOLERANCE',
    'ImageScores',
    'OnnxGraph',
    'as_graph',
    'export_model',
    'largest_error',
    'write_exported',
]

SUFFIXES = ('.pt2', '.onnx')
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
TOLERANCE = 1e-4
"""Largest difference between a graph and its model, in parts of an output's range where that is more than 1."""
SAME_DETECTIONS = 0.95
"""Share of detections that must be so near: a difference of 1e-7 can decide what a threshold or a better box leaves."""
OUTPUTS = ('boxes', 'scores', 'labels', 'masks')  # of a detector; all others give scores only


class ImageScores(nn.Module):
    """Normalised images ``(B, C, H, W)`` to the scores of a segmentor ``(B, N, H, W)`` or a classifier's logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, img: Tensor) -> Tensor:
        if not hasattr(self.model, 'decode_head'):
            return self.model(img, mode='tensor')
        metas = [{'img_shape': (img.shape[2], img.shape[3])}]
        return self.model.decode_head.predict(self.model.extract_feat(img), metas, None)


class OnnxGraph:
    """An ONNX file that onnxruntime runs on the CPU: images to its outputs."""

    def __init__(self, path: str | Path) -> None:
        from onnxruntime import InferenceSession  # type: ignore[import-untyped]  # an option

        self.session = InferenceSession(str(path), providers=['CPUExecutionProvider'])
        self.input = self.session.get_inputs()[0].name

    def __call__(self, img: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in self.session.run(None, {self.input: img.numpy()}))


def as_graph(model: nn.Module) -> nn.Module:
    """What is exported of a segmentor or classifier (:class:`ImageScores`) or of a detector of mmdet."""
    if hasattr(model, 'generator'):
        raise UserError(f'a {type(model).__name__} cannot be exported: it makes images from noise and takes none')
    if hasattr(model, 'panoptic_head'):
        remedy = 'a segmentor mmvit_ext.EoMT can be'
        raise UserError(f'a {type(model).__name__} cannot be exported: what follows its masks has no graph; {remedy}')
    if not hasattr(model, 'bbox_head') and not hasattr(model, 'rpn_head'):
        return ImageScores(model).eval()
    from .detections import Detections  # needs mmdet, and a torch that exports

    return Detections(model).eval()


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor], share: float = 1.0) -> float:
    """Largest difference of outputs, in parts of an output's range where that is more than 1.

    Each detection is compared with the nearest one of its image and label, because equal scores have no order; the
    ``share`` of them that differ least is taken.
    """
    if len(expected) > 1:
        apart = (expected[0][:, :, None] - found[0][:, None]).abs().amax(-1)
        apart = apart + (expected[1][:, :, None] - found[1][:, None]).abs()
        nearest = apart.masked_fill(expected[2][:, :, None] != found[2][:, None], torch.inf).argmin(2)
        found = [part[torch.arange(len(part))[:, None], nearest] for part in found]
    errors = []
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(other.max() - other.min()))
        errors.append(((one - other).float().abs() / scale).flatten(min(2, one.ndim - 1)))
    if len(errors) == 1:
        return float(errors[0].max())
    each = torch.stack([error if error.ndim == 2 else error.amax(2) for error in errors]).amax(0)
    return float(each.flatten().quantile(share, interpolation='lower'))


def export_model(model: nn.Module, size: tuple[int, int], *, dynamic: bool = False) -> torch.export.ExportedProgram:
    """Trace a segmentor of mmseg, a classifier of mmpretrain or a detector of mmdet for an image of a size ``(H, W)``.

    A ``dynamic`` graph takes any number of images of any size.
    """
    needed = (2, 6) if dynamic else (2, 5)
    if needed > TORCH:
        raise UserError(f'exporting needs torch {needed[0]}.{needed[1]} or later, and this is {torch.__version__}')
    network, (img, *_) = with_graph_forms(as_graph(model)), _images(model, size, dynamic)
    with torch.no_grad():
        if not dynamic:
            return torch.export.export(network, (img,))
        dims = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
        try:
            program = torch.export.export(network, (img,), dynamic_shapes=(dims,))
        except Exception as error:  # a constraint or an operator that has no form for open sizes
            raise _of_one_size(error) from error
    batch, _, height, width = _input_shape(program)
    for name, edge in {'number of images': batch, 'height': height, 'width': width}.items():
        if _is_fixed(edge):
            raise _of_one_size(f'what it does depends on whether the {name} is {edge}')
    return program


def _of_one_size(reason: object) -> UserError:
    shown = ' '.join(str(reason).split())[:200]
    remedy = 'leave --dynamic out and export it for each size'
    return UserError(f'the graph of this model holds for images of one size only ({shown}): {remedy}')


def _input_shape(program: torch.export.ExportedProgram) -> Sequence[int | torch.SymInt]:
    (name,) = program.graph_signature.user_inputs
    shape: Sequence[int | torch.SymInt] = (
        next(node for node in program.graph.nodes if node.name == name).meta['val'].shape
    )
    return shape


def _is_fixed(edge: int | torch.SymInt) -> bool:
    return isinstance(edge, int) or edge.node.maybe_as_int() is not None


def _images(model: nn.Module, size: Sequence[int], dynamic: bool) -> list[Tensor]:
    """Images of the size that is exported, of a dynamic graph two at once, then such as no dynamic graph has seen."""
    others = [(1, *size), (3, size[0] + 37, 2 * size[1] - 5), (1, size[0] + 32, 2 * size[1])]
    shapes = [(2, *size), *others] if dynamic else [(1, *size)]
    generator, channels = torch.Generator().manual_seed(0), image_channels(model)
    like = next(model.parameters())
    return [torch.randn(n, channels, h, w, generator=generator).to(like) for n, h, w in shapes]


@torch.no_grad()
def _check(graph: Callable[[Tensor], Any], network: nn.Module, images: Sequence[Tensor]) -> None:
    """Compare what a graph gives for images with what its model gives."""
    for img in images:
        try:
            outputs = graph(img)
        except Exception as error:  # a guard
            raise _of_one_size(error) from error
        found, expected = ([out] if isinstance(out, Tensor) else out for out in (outputs, network(img)))
        if not (difference := largest_error(found, expected, SAME_DETECTIONS)) <= TOLERANCE:
            shape = 'x'.join(map(str, img.shape))
            allowed = f'{TOLERANCE:.0e} of the range of an output is allowed'
            raise UserError(
                f'the graph differs from the model by {difference:.1e} at {shape}, and {allowed}: report it'
            )


def write_exported(program: torch.export.ExportedProgram, target: str | Path, model: nn.Module | None = None) -> None:
    """Write an exported program, whole or not at all: ``.pt2`` is torch.export's own format, ``.onnx`` ONNX.

    It is compared with the ``model`` before, if that is given; an ONNX graph as onnxruntime runs it, if that is there.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise UserError(f'{target}: name a file that ends in .pt2 (torch.export) or .onnx')
    dynamic = not _is_fixed(_input_shape(program)[2])
    with atomic_path(target) as file:
        if target.suffix == '.pt2':
            with file.open('wb') as stream:
                torch.export.save(program, stream)
        else:
            try:
                onnx = _to_onnx(program)
            except torch.onnx.OnnxExporterError as error:
                reason = ' '.join(str(error.__cause__ or error).split())[:200]
                remedy = 'name a file that ends in .pt2 instead'
                raise UserError(f'torch cannot write this model as ONNX ({reason}): {remedy}') from error
            onnx.save(str(file))
        if model is not None:
            runs = target.suffix == '.onnx' and find_spec('onnxruntime')
            graph = OnnxGraph(file) if runs else program.module()
            _, _, *size = program.example_inputs[0][0].shape  # type: ignore[index]
            _check(graph, as_graph(model), _images(model, size, dynamic))


def _to_onnx(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    count = len(program.graph_signature.user_outputs)
    settings: dict[str, Any] = {'output_names': OUTPUTS[:count] if count > 1 else ['scores']}
    if count > 1:
        from .detections import suppress_in_onnx

        settings['custom_translation_table'] = {torch.ops.mmvit_ext.suppress.default: suppress_in_onnx}
    onnx = torch.onnx.export(program, dynamo=True, verbose=False, **settings)
    assert onnx is not None
    return onnx
