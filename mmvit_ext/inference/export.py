"""A trained segmentor or classifier as a graph for other programs: torch.export and ONNX."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.models.backbones.base import image_channels

__all__ = ['ImageScores', 'export_model', 'write_exported']

SUFFIXES = ('.pt2', '.onnx')
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


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


def export_model(model: nn.Module, size: tuple[int, int], *, dynamic: bool = False) -> torch.export.ExportedProgram:
    """Trace an mmseg ``EncoderDecoder`` or an mmpretrain ``ImageClassifier`` for one image of a size ``(H, W)``.

    A ``dynamic`` graph takes any number of images of any size; it is compared with the model at another size.
    """
    needed = (2, 6) if dynamic else (2, 5)
    if needed > TORCH:
        raise UserError(f'exporting needs torch {needed[0]}.{needed[1]} or later, and this is {torch.__version__}')
    parameter = next(model.parameters())
    network, channels = ImageScores(model).eval(), image_channels(model)

    def images(*shape: int) -> Tensor:
        return torch.randn(shape[0], channels, *shape[1:], generator=torch.Generator().manual_seed(0)).to(parameter)

    with torch.no_grad():
        if not dynamic:
            return torch.export.export(network, (images(1, *size),))
        dims = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
        try:
            program = torch.export.export(_with_open_upsampling(network), (images(2, *size),), dynamic_shapes=(dims,))
            graph = program.module()
            for shape in ((1, *size), (3, size[0] + 37, 2 * size[1] - 5)):
                torch.testing.assert_close(graph(images(*shape)), network(images(*shape)), atol=1e-4, rtol=1e-3)
        except Exception as error:  # a guard, a constraint or an operator that has no form for open sizes
            reason = f'{" ".join(str(error).split())[:200]}): leave --dynamic out and export it for each size'
            raise UserError(f'the graph of this model holds for images of one size only ({reason}') from error
    return program


def _with_open_upsampling(network: nn.Module) -> nn.Module:
    """A copy in which mmseg's ``Upsample`` multiplies whole numbers: it would turn an open size into a fixed one."""

    def upsampled(module: Any, x: Tensor) -> Tensor:
        size = [edge * int(module.scale_factor) for edge in x.shape[2:]]
        return F.interpolate(x, size, mode=module.mode, align_corners=module.align_corners)

    network = copy.deepcopy(network)
    for module in network.modules():
        factor = getattr(module, 'scale_factor', None)
        if type(module).__module__.startswith('mmseg.') and isinstance(factor, float) and factor.is_integer():
            module.forward = upsampled.__get__(module)
    return network


def write_exported(program: torch.export.ExportedProgram, target: str | Path) -> None:
    """Write an exported program, whole or not at all: ``.pt2`` is torch.export's own format, ``.onnx`` ONNX."""
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise UserError(f'{target}: name a file that ends in .pt2 (torch.export) or .onnx')
    with atomic_path(target) as file:
        if target.suffix == '.pt2':
            with file.open('wb') as stream:
                torch.export.save(program, stream)
        else:
            onnx = torch.onnx.export(program, dynamo=True, verbose=False)
            assert onnx is not None
            onnx.save(str(file))
