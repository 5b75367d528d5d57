"""``mmvit_ext.TNT`` against TNT written out, on the same weights: ``python -m benchmarks.tnt``.

TNT-Small at 224 x 224 pixels with batch 4 and at 512 x 512 with batch 1, without classifier. Then the parts in which
the two differ most: embedding the words, and the attention of the inner transformer at several shapes against the fused
kernel.
"""

from __future__ import annotations

import torch
from mmvit_ext.models.layers.linear import linear
from mmvit_ext.models.layers.short_attention import short_attention
from mmvit_ext.models.layers.words import embed_words

from benchmarks.harness import Goal, Measurement, Step, arguments, compare, report
from benchmarks.plain_tnt import plain_tnt, plain_words
from mmvit_ext.models.backbones.tnt import TNT
from mmvit_ext.models.layers.attention import multihead_attention

SIZES = {'224x224, batch 4': (4, 224), '512x512, batch 1': (1, 512)}
GOALS = tuple(
    goal
    for size in SIZES
    for goal in (
        Goal(f'inference, {size}', 'share', 0.85),
        Goal(f'training step, {size}', 'share', 0.88),
        Goal(f'training step, {size}', 'memory', 0.65),
    )
)
SHORT_SHAPES = {  # sequences, words, width and heads for four images of 224 x 224 pixels
    'Ti': (784, 16, 12, 2),
    'S': (784, 16, 24, 4),
    'B': (784, 16, 40, 4),
    'S, 4 words': (784, 4, 24, 4),
    'S, 64 words': (784, 64, 24, 4),
}


def fused_attention(x: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The same as ``short_attention`` by way of the fused kernel."""
    q, k, v = linear(x, weight).chunk(3, dim=-1)
    return multihead_attention(q, k, v, heads)


def parts(device: torch.device, repeats: int) -> list[Measurement]:
    """Words and inner attention by themselves, forwards and backwards."""
    rows: list[Measurement] = []
    for stride in (2, 4, 8):
        img = torch.randn(4, 3, 224, 224, device=device)
        grad = torch.randn(784, (16 // stride) ** 2, 24, device=device)
        weight = torch.randn(24, 3, 7, 7, device=device, requires_grad=True)
        bias = torch.randn(24, device=device, requires_grad=True)
        steps = [
            lambda embed=embed, img=img, weight=weight, bias=bias, stride=stride, grad=grad: (  # type: ignore[misc]
                embed(img, weight, bias, stride=stride, patch_size=16).contiguous().backward(grad)
            )
            for embed in (embed_words, plain_words)
        ]
        rows += compare(f'words of {stride} pixels', *steps, device, repeats)
    for name, (sequences, words, width, heads) in SHORT_SHAPES.items():
        x = torch.randn(sequences, words, width, device=device, requires_grad=True)
        weight = torch.randn(3 * width, width, device=device).mul_(width**-0.5).requires_grad_()
        grad = torch.randn(sequences, words, width, device=device)
        rows += compare(
            f'inner attention, {name}',
            lambda x=x, weight=weight, heads=heads, grad=grad: short_attention(x, weight, None, heads).backward(grad),  # type: ignore[misc]
            lambda x=x, weight=weight, heads=heads, grad=grad: fused_attention(x, weight, heads).backward(grad),  # type: ignore[misc]
            device,
            repeats,
        )
    return rows


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = TNT('small')
    model.init_weights()
    model.to(device)

    def train_step(img: torch.Tensor, *, plain: bool = False) -> Step:
        def step() -> None:
            features = plain_tnt(model, img) if plain else model(img)
            sum(feature.mean() for feature in features).backward()
            model.zero_grad(set_to_none=True)

        return step

    rows: list[Measurement] = []
    for name, (batch, edge) in SIZES.items():
        img = torch.randn(batch, 3, edge, edge, device=device)
        model.train()
        rows += compare(f'training step, {name}', train_step(img), train_step(img, plain=True), device, args.repeats)
        model.eval()
        with torch.no_grad():
            rows += compare(
                f'inference, {name}',
                lambda img=img: model(img),  # type: ignore[misc]
                lambda img=img: plain_tnt(model, img),  # type: ignore[misc]
                device,
                args.repeats,
            )
    met = report('TNT-Small against TNT as the paper reads', rows, GOALS, device, args.json)
    report('Parts of TNT, forwards and backwards', parts(device, args.repeats), (), device, None)
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
