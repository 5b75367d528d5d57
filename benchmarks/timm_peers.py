"""A backbone against timm's of the same size, side by side: what the benchmarks of ViT, TNT and NesT share.

timm is not among the requirements; without it the comparison is left out with a note.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.harness import Goal, Measurement, Step, compare

__all__ = ['against', 'goals']

BATCH, EDGE = 4, 224


def goals(peer: str) -> tuple[Goal, ...]:
    """Limits of time and, with activation checkpointing, of memory."""
    if find_spec('timm') is None:
        return ()
    return (
        Goal(f'training step, against {peer}', 'time', 1.05),
        Goal(f'inference, against {peer}', 'time', 1.05),
        Goal(f'training step with with_cp=True, against {peer}', 'memory', 0.6),
    )


def against(
    peer: str, ours: nn.Module, saving: nn.Module, device: torch.device, repeats: int, **arguments: object
) -> list[Measurement]:
    """Measure a network, and the same with activation checkpointing, against timm's.

    Args:
        peer: Name of timm's network.
        ours: The network.
        saving: The same with ``with_cp=True``.
        device: Where they run.
        repeats: Timed calls of each side.
        **arguments: Further arguments of timm's network.

    Returns:
        The measurements; none where timm is missing.
    """
    if find_spec('timm') is None:
        print(f'timm is not installed: {peer} is left out (pip install --no-deps timm==1.0.31)')
        return []
    import timm

    theirs = timm.create_model(peer, num_classes=0, **arguments).to(device)
    img = torch.randn(BATCH, 3, EDGE, EDGE, device=device)

    def run(model: nn.Module) -> Tensor:
        return model.forward_features(img) if model is theirs else model(img)[-1]  # type: ignore[operator]

    def train_step(model: nn.Module) -> Step:
        def step() -> None:
            run(model).square().mean().backward()
            model.zero_grad(set_to_none=True)

        return step

    for model in (ours, saving, theirs):
        model.train()
    rows = compare(f'training step, against {peer}', train_step(ours), train_step(theirs), device, repeats)
    case = f'training step with with_cp=True, against {peer}'
    rows += compare(case, train_step(saving), train_step(theirs), device, repeats)
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        rows += compare(f'inference, against {peer}', lambda: run(ours), lambda: run(theirs), device, repeats)
    return rows
