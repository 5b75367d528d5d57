"""``mmvit_ext.TimmViT`` against timm's own ``forward_intermediates``: ``python -m benchmarks.timm_vit``.

Both networks have the same weights and give the maps of four blocks. They are built for the size at which they are
measured, timm's with its ``dynamic_img_size`` where it has one. The depth is cut to eight blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.harness import Goal, Measurement, arguments, compare, report
from mmvit_ext.models.backbones.timm_vit import HEADS, TimmViT

FAMILIES = {
    'AugReg': 'vit_small_patch16_224',
    'DINOv2': 'vit_small_patch14_dinov2',
    'DINOv3': 'vit_small_patch16_dinov3',
    'EVA-02': 'eva02_small_patch14_224',
    'BEiT v2': 'beitv2_base_patch16_224',
}
SIZES = (224, 448)
DEPTH, INDICES = 8, (1, 3, 5, 7)


def build(model: str, size: int, device: torch.device) -> tuple[TimmViT, nn.Module]:
    """The adapter and timm's own network with the same weights."""
    import timm

    dynamic = {} if 'beit' in model else {'dynamic_img_size': True}
    theirs = timm.create_model(model, num_classes=0, img_size=size, depth=DEPTH, **dynamic)
    ours = TimmViT(model, img_size=size, depth=DEPTH, out_indices=INDICES)
    if ours.net.norms_the_mean:  # for maps ours normalises the patches, which timm leaves to the mean
        theirs.norm, theirs.fc_norm = theirs.fc_norm, nn.Identity()
    keys = theirs.load_state_dict(ours.net.state_dict(), strict=False)
    if differing := [key for key in (*keys.missing_keys, *keys.unexpected_keys) if not key.startswith(HEADS)]:
        raise RuntimeError(f'{model}: the networks differ in {differing}')
    return ours.to(device), theirs.to(device)


def measure(case: str, model: str, size: int, device: torch.device, repeats: int) -> list[Measurement]:
    """Training step and inference of one network at one size."""
    ours, theirs = build(model, size, device)
    img = torch.randn(1, 3, size, size, device=device)

    def run(network: nn.Module) -> Sequence[Tensor]:
        if network is ours:
            return network(img)
        return network.forward_intermediates(img, list(INDICES), norm=True, intermediates_only=True)

    def train_step(network: nn.Module) -> None:
        torch.stack([found.square().mean() for found in run(network)]).sum().backward()
        network.zero_grad(set_to_none=True)

    for network in (ours, theirs):
        network.train()
    rows = compare(f'{case}, training step', lambda: train_step(ours), lambda: train_step(theirs), device, repeats)
    for network in (ours, theirs):
        network.eval()
    with torch.no_grad():
        return rows + compare(f'{case}, inference', lambda: run(ours), lambda: run(theirs), device, repeats)


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    rows, goals = [], []
    for family, model in FAMILIES.items():
        for size in SIZES:
            rows += measure(f'{family}, {size}', model, size, device, args.repeats)
    for row in rows[::2]:
        goals += [Goal(row.case, 'time', 1.05), Goal(row.case, 'memory', 1.01)]
    title = "TimmViT (ours) against timm's forward_intermediates (reference), batch 1"
    return 0 if report(title, rows, goals, device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
