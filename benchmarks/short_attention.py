"""Attention of few tokens in bfloat16 on a CPU: ``python -m benchmarks.short_attention``.

Forward and backward with products in 16 bit and in 32. Below how many queries or keys the package takes 32 bit is
``mmvit_ext.models.layers.attention.SHORT``.
"""

import statistics

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import describe_machine, seconds_of
from mmvit_ext.models.layers import attention

CPU = torch.device('cpu')
SHAPES = (
    # what, batch, queries, keys, heads, width of a head
    ('NesT-nano, lowest level', 1024, 64, 64, 3, 16),
    ('ViT, 64 tokens', 64, 65, 65, 3, 64),
    ('ViT, 196 tokens', 16, 197, 197, 6, 64),
    ('ViT, 400 tokens', 8, 400, 400, 6, 64),
    ('ViT, 800 tokens', 4, 800, 800, 6, 64),
    ('P2T, 5000 tokens to 100', 4, 5000, 100, 2, 32),
    ('ATM, 11 classes to 540 tokens', 4, 11, 540, 8, 48),
)


def main() -> int:
    table = Table(title='Attention in bfloat16, forward and backward, ms')
    for name in ('shape', 'B, N, L, heads, width', '16 bit', '32 bit', 'taken'):
        table.add_column(name)
    for name, B, N, L, heads, width in SHAPES:
        tensors = [torch.randn(B, n, heads * width, dtype=torch.bfloat16).requires_grad_() for n in (N, L, L)]

        def step(tensors: list[torch.Tensor] = tensors, heads: int = heads) -> None:
            attention.multihead_attention(*tensors, heads).sum().backward()

        taken, cells = '32 bit' if min(N, L) < attention.SHORT else '16 bit', []
        for limit in (0, 10**6):
            before, attention.SHORT = attention.SHORT, limit
            try:
                step()
                cells.append(f'{1e3 * statistics.median(seconds_of(step, CPU) for _ in range(9)):.1f}')
            finally:
                attention.SHORT = before
        table.add_row(name, f'{B}, {N}, {L}, {heads}, {width}', *cells, taken)
    Console(width=120).print(table)
    print(', '.join(f'{name}: {value}' for name, value in describe_machine(CPU).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
