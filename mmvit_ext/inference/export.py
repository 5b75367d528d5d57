"""A trained segmentor as a graph for other programs: torch.export and ONNX."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path

__all__ = ['ScoreMap', 'export_segmentor', 'write_exported']

SUFFIXES = ('.pt2', '.onnx')

TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


class ScoreMap(nn.Module):
    """A segmentor as a plain function from images to score maps of the same size.

    Args:
        segmentor: An mmseg ``EncoderDecoder``.
        size: Height and width of the images in pixels.

    Shape:
        Normalised images ``(B, 3, H, W)`` to scores ``(B, N, H, W)``.
    """

    def __init__(self, segmentor: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.segmentor: Any = segmentor
        self.size = size

    def forward(self, img: Tensor) -> Tensor:
        """Score maps of images; see the class."""
        features = self.segmentor.extract_feat(img)
        return self.segmentor.decode_head.predict(features, [{'img_shape': self.size}] * len(img), None)


def export_segmentor(segmentor: nn.Module, size: tuple[int, int]) -> 'torch.export.ExportedProgram':
    """Trace an mmseg ``EncoderDecoder`` for images of one ``size`` (H, W); it is put into evaluation mode.

    Returns:
        The program, from one normalised image ``(1, 3, H, W)`` to scores ``(1, N, H, W)``.

    Raises:
        UserError: Torch is too old.
    """
    if TORCH < (2, 5):
        raise UserError(f'exporting needs torch 2.5 or later, and this is {torch.__version__}')
    device = next(segmentor.parameters()).device
    with torch.no_grad():
        return torch.export.export(ScoreMap(segmentor, size).eval(), (torch.zeros(1, 3, *size, device=device),))


def write_exported(program: 'torch.export.ExportedProgram', target: str | Path) -> None:
    """Write an exported program, whole or not at all: ``.pt2`` is torch.export's own format, ``.onnx`` ONNX.

    Raises:
        UserError: The file has another suffix.
    """
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
