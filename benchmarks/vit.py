"""``mmvit_ext.ViT`` against mmseg's ``VisionTransformer`` on the same weights: ``python -m benchmarks.vit``.

ViT-S with 16-pixel patches, 512 x 512 pixels, batch 2.
"""

from __future__ import annotations

import torch
from mmseg.models.backbones import VisionTransformer

from benchmarks.harness import Goal, arguments, compare, report
from mmvit_ext.models.backbones.vit import ViT

GOALS = (Goal('inference', 'time', 1 / 1.6), Goal('training step', 'memory', 0.55))


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    settings = {'img_size': 512, 'embed_dims': 384, 'num_layers': 12, 'num_heads': 6, 'out_indices': (5, 7, 11)}
    ours, theirs = ViT(**settings), VisionTransformer(**settings)
    theirs.init_weights()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.to(device)
    theirs.to(device)
    img = torch.randn(2, 3, 512, 512, device=device)

    def train_step(model: torch.nn.Module) -> None:
        sum(feature.mean() for feature in model(img)).backward()
        model.zero_grad(set_to_none=True)

    rows = compare('training step', lambda: train_step(ours), lambda: train_step(theirs), device, args.repeats)
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        rows += compare('inference', lambda: ours(img), lambda: theirs(img), device, args.repeats)
    title = 'ViT-S/16, 512x512, batch 2, against mmseg VisionTransformer'
    return 0 if report(title, rows, GOALS, device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
