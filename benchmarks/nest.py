"""``mmvit_ext.NesT`` against NesT written out, on the same weights: ``python -m benchmarks.nest``.

NesT-Tiny at 224 x 224 pixels with batch 4 and at 512 x 512 with batch 1, without classifier. At 512 x 512 no level is
made of whole blocks: the plain form pads and masks.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Goal, Measurement, Step, arguments, compare, report
from benchmarks.plain_nest import plain_nest
from mmvit_ext.models.backbones.nest import NesT

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


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = NesT('tiny', drop_path_rate=0.0)
    model.init_weights()
    model.to(device)

    def train_step(img: torch.Tensor, *, plain: bool) -> Step:
        def step() -> None:
            features = plain_nest(model, img) if plain else model(img)
            sum(feature.mean() for feature in features).backward()
            model.zero_grad(set_to_none=True)

        return step

    rows: list[Measurement] = []
    for name, (batch, edge) in SIZES.items():
        img = torch.randn(batch, 3, edge, edge, device=device)
        model.train()
        case = f'training step, {name}'
        rows += compare(case, train_step(img, plain=False), train_step(img, plain=True), device, args.repeats)
        model.eval()
        with torch.no_grad():
            rows += compare(
                f'inference, {name}',
                lambda img=img: model(img),  # type: ignore[misc]
                lambda img=img: plain_nest(model, img),  # type: ignore[misc]
                device,
                args.repeats,
            )
    return 0 if report('NesT-Tiny against NesT as the paper reads', rows, GOALS, device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
