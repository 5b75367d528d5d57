"""ATM head against a plain one: ``python -m benchmarks.atm_head``.

The size of SegViT-B on ADE20K: C = 768, D = 384, 12 heads, 3 stages of 3 layers, 150 classes, 512 x 512 pixels,
batch 2, 12 classes present in each image.
"""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from benchmarks.harness import Goal, arguments, compare, report
from benchmarks.plain_atm import plain_decode, plain_fuse, plain_loss
from mmvit_ext.models.decode_heads.atm_head import ATMHead

GOALS = (
    Goal('training step', 'time', 1 / 2.5),
    Goal('training step', 'memory', 0.25),
    Goal('inference', 'time', 1 / 1.5),
    Goal('inference', 'memory', 0.45),
)


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    size, batch, classes = 512, 2, 12
    head = ATMHead([768] * 3, 384, num_classes=150, in_index=[0, 1, 2], num_heads=12)
    head.init_weights()
    head.to(device)
    features = [torch.randn(batch, 768, size // 16, size // 16, device=device, requires_grad=True) for _ in range(3)]
    coarse = torch.stack([torch.randperm(150)[torch.randint(classes, (16, 16))] for _ in range(batch)])
    label = coarse.repeat_interleave(size // 16, 1).repeat_interleave(size // 16, 2).to(device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=image[None])) for image in label]
    metas = [{'img_shape': (size, size)}] * batch

    def train_step(losses: dict[str, torch.Tensor]) -> None:
        sum(value for key, value in losses.items() if key.startswith('loss')).backward()
        for tensor in (*head.parameters(), *features):
            tensor.grad = None

    head.train()
    rows = compare(
        'training step',
        lambda: train_step(head.loss(features, samples, None)),
        lambda: train_step(plain_loss(head, features, label)),
        device,
        args.repeats,
    )
    head.eval().requires_grad_(False)
    features = [feature.detach() for feature in features]
    with torch.no_grad():
        rows += compare(
            'inference',
            lambda: head.predict(features, metas, None),
            lambda: plain_fuse(*plain_decode(head, features)[-1], (size, size)),
            device,
            args.repeats,
        )
    return (
        0
        if report('ATM head, C=768 D=384, 3x3 layers, 150 classes, 512x512, batch 2', rows, GOALS, device, args.json)
        else 1
    )


if __name__ == '__main__':
    raise SystemExit(main())
