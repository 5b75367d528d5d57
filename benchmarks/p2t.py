"""``mmvit_ext.P2T`` against P2T written out, on the same weights: ``python -m benchmarks.p2t``.

P2T-Small at 224 x 224 pixels with batch 4 and at 512 x 512 with batch 1, without classifier, also with activation
checkpointing. Then what an activation and a number format cost: GELU instead of Hardswish in both formulations, and
bfloat16 autocast instead of float32.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks.harness import Goal, Measurement, Step, arguments, compare, report
from benchmarks.plain_p2t import plain_p2t
from mmvit_ext.models.backbones.p2t import P2T, InvertedResidualFFN

SIZES = {'224x224, batch 4': (4, 224), '512x512, batch 1': (1, 512)}
GOALS = tuple(
    goal
    for size in SIZES
    for goal in (
        Goal(f'inference, {size}', 'time', 1.05),
        Goal(f'training step, {size}', 'time', 1.05),
        Goal(f'training step with checkpointing, {size}', 'memory', 0.6),
    )
)


def with_gelu(model: P2T) -> P2T:
    """A copy of the network with GELU in place of Hardswish."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, InvertedResidualFFN):
            module.act = nn.GELU()
    return model


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = P2T('small', drop_path_rate=0.0)
    model.init_weights()
    model.to(device)
    gelu = with_gelu(model)
    saving = P2T('small', drop_path_rate=0.0, with_cp=True).to(device)
    saving.load_state_dict(model.state_dict())

    def train_step(network: P2T, img: torch.Tensor, *, plain: bool = False, bfloat16: bool = False) -> Step:
        def step() -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
                features = plain_p2t(network, img) if plain else network(img)
            sum(feature.float().mean() for feature in features).backward()
            network.zero_grad(set_to_none=True)

        return step

    rows: list[Measurement] = []
    extra: list[Measurement] = []
    for name, (batch, edge) in SIZES.items():
        img = torch.randn(batch, 3, edge, edge, device=device)
        model.train()
        ours, plain = train_step(model, img), train_step(model, img, plain=True)
        rows += compare(f'training step, {name}', ours, plain, device, args.repeats)
        steps = train_step(saving, img), plain
        rows += compare(f'training step with checkpointing, {name}', *steps, device, args.repeats)
        if edge == 224:
            pairs = {
                'GELU against Hardswish': (train_step(gelu, img), ours),
                'GELU against Hardswish, plain': (train_step(gelu, img, plain=True), plain),
                'bfloat16 against float32': (train_step(model, img, bfloat16=True), ours),
            }
            for case, (step, other) in pairs.items():
                extra += compare(f'{case}, {name}', step, other, device, args.repeats)
        model.eval()
        with torch.no_grad():
            rows += compare(
                f'inference, {name}',
                lambda img=img: model(img),  # type: ignore[misc]
                lambda img=img: plain_p2t(model, img),  # type: ignore[misc]
                device,
                args.repeats,
            )
    met = report('P2T-Small against P2T as the paper reads', rows, GOALS, device, args.json)
    report(
        'P2T-Small, training step: what a choice costs (first row of a pair against the second)',
        extra,
        (),
        device,
        None,
    )
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
