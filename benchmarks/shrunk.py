"""SegViT Shrunk against SegViT at 640 x 640: ``python -m benchmarks.shrunk [--backbone dinov2-l16]``.

Random weights, batch 1, backbone and head; a training step has the forward pass, the losses and the backward pass.
Operations saved on paper have to show as time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from benchmarks.harness import Goal, arguments, compare, report

BACKBONES = ('vit-l16', 'dinov2-l16', 'dinov3-l16', 'eva02-l16')
CONFIGS = Path(__file__).parents[1] / 'configs' / 'segvit'
GOALS = (Goal('inference', 'time', 0.65), Goal('training step', 'time', 0.65))


def build(name: str, device: torch.device) -> torch.nn.Module:
    """A full-size segmentor with random weights."""
    from mmseg.registry import MODELS

    cfg = Config.fromfile(CONFIGS / f'{name}_8xb2-160k_ade20k-640x640.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone[{'mmvit_ext.TimmViT': 'checkpoint'}.get(cfg.model.backbone.type, 'init_cfg')] = None
    model = MODELS.build(cfg.model)
    logger = MMLogger.get_current_instance()
    logger.setLevel('ERROR')  # the initialisation would log every parameter
    model.init_weights()
    return model.to(device)


def main() -> int:
    args = arguments(__doc__ or '', backbone=BACKBONES)
    device = torch.device(args.device)
    torch.manual_seed(0)
    size = 640
    shrunk, full = (build(f'{name}_{args.backbone}', device) for name in ('segvit-shrunk', 'segvit'))
    img = torch.randn(1, 3, size, size, device=device)
    coarse = torch.randperm(150)[torch.randint(12, (20, 20))]
    label = coarse.repeat_interleave(32, 0).repeat_interleave(32, 1).to(device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None]), metainfo={'img_shape': (size, size)})]

    def train_step(model: torch.nn.Module) -> None:
        losses = model.loss(img, samples)
        sum(value for key, value in losses.items() if 'loss' in key).backward()
        model.zero_grad(set_to_none=True)

    def infer(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.encode_decode(img, [{'img_shape': (size, size)}])

    rows = compare('training step', lambda: train_step(shrunk), lambda: train_step(full), device, args.repeats)
    for model in (shrunk, full):
        model.eval().requires_grad_(False)
    rows += compare('inference', lambda: infer(shrunk), lambda: infer(full), device, args.repeats)
    title = f'{args.backbone} Shrunk (ours) against {args.backbone} (reference), 640x640, batch 1'
    return 0 if report(title, rows, GOALS, device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
