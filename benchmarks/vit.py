"""``mmvit_ext.ViT`` against mmseg's ``VisionTransformer`` and timm's ``vit_small``: ``python -m benchmarks.vit``.

ViT-S with 16-pixel patches: against mmseg's on the same weights at 512 x 512 pixels with batch 2, against timm's at
224 x 224 pixels with batch 4.
"""

from __future__ import annotations

import torch
from mmseg.models.backbones import VisionTransformer

from benchmarks.harness import Goal, arguments, compare, report
from benchmarks.timm_peers import against, goals
from mmvit_ext.models.backbones.vit import ViT

PEER = 'vit_small_patch16_224'
GOALS = (Goal('inference', 'time', 0.9), Goal('training step', 'time', 0.9), Goal('training step', 'memory', 0.55))


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
    networks = [ViT('small', patch_bias=True, final_norm=True, with_cp=with_cp) for with_cp in (False, True)]
    for network in networks:
        network.init_weights()
        network.to(device)
    rows += against(PEER, *networks, device, args.repeats)
    title = "ViT-S/16 against mmseg's (512x512, batch 2) and timm's (224x224, batch 4)"
    return 0 if report(title, rows, (*GOALS, *goals(PEER)), device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
