"""Superpixel cross attention and SPFormer: ``python -m benchmarks.superpixel``.

First the two iterations of one SCA module of SPFormer-S/16, against the form with nine copies of every map
(``benchmarks.plain_superpixel``), on the same weights. Then the whole SPFormer-S/16 against a DeiT-S/16 with as many
tokens and blocks. 224 x 224 pixels with batch 8 and 512 x 512 with batch 2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.harness import Goal, Measurement, arguments, compare, report
from benchmarks.plain_superpixel import plain_attention
from mmvit_ext.models.backbones import SPFormer, ViT

SIZES = {'224x224, batch 8': (8, 224), '512x512, batch 2': (2, 512)}
GOALS = tuple(
    Goal(f'training step, {size}', figure, limit)
    for size in SIZES
    for figure, limit in (('time', 1 / 5), ('memory', 0.3))
)


def compare_attention(
    name: str, sca: nn.Module, pixels: Tensor, superpixels: Tensor, device: torch.device, repeats: int
) -> list[Measurement]:
    """Training step and inference of one SCA module in both forms."""

    def plain(pixels: Tensor, superpixels: Tensor) -> tuple[Tensor, ...]:
        return plain_attention(sca, pixels, superpixels)  # type: ignore[arg-type]

    def train(form: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        outs = form(pixels, superpixels)
        (outs[0].mean() + outs[1].mean()).backward()
        for tensor in (pixels, superpixels, *sca.parameters()):
            tensor.grad = None

    for ours, theirs in zip(sca(pixels, superpixels)[:2], plain(pixels, superpixels), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    rows = compare(f'training step, {name}', lambda: train(sca), lambda: train(plain), device, repeats)
    with torch.no_grad():
        inference = lambda: sca(pixels, superpixels), lambda: plain(pixels, superpixels)
        return rows + compare(f'inference, {name}', *inference, device, repeats)


def compare_networks(name: str, model: nn.Module, baseline: nn.Module, img: Tensor, repeats: int) -> list[Measurement]:
    """Training step and inference of both networks."""

    def train(network: nn.Module) -> None:
        network(img)[-1].mean().backward()
        network.zero_grad(set_to_none=True)

    model.train()
    baseline.train()
    rows = compare(f'training step, {name}', lambda: train(model), lambda: train(baseline), img.device, repeats)
    model.eval()
    baseline.eval()
    with torch.no_grad():
        return rows + compare(f'inference, {name}', lambda: model(img), lambda: baseline(img), img.device, repeats)


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = SPFormer('small').to(device)
    baseline = ViT('small', with_cls_token=False).to(device)
    model.init_weights()
    baseline.init_weights()
    rows: list[Measurement] = []
    networks: list[Measurement] = []
    for name, (batch, edge) in SIZES.items():
        img = torch.randn(batch, 3, edge, edge, device=device)
        networks += compare_networks(name, model, baseline, img, args.repeats)
        C, h = model.embed_dims, edge // 4
        pixels = torch.randn(batch, C, h, h, device=device).to(memory_format=torch.channels_last).requires_grad_()
        superpixels = torch.randn(batch, C, h // 4, h // 4, device=device, requires_grad=True)
        rows += compare_attention(name, model.sca[0], pixels, superpixels, device, args.repeats)
    met = report('SCA of SPFormer-S/16 against nine copies', rows, GOALS, device, args.json)
    report('SPFormer-S/16 (ours) against DeiT-S/16 (reference)', networks, (), device, None)
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
