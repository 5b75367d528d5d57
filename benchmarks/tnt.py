"""``mmvit_ext.TNT`` against timm's ``tnt_s_patch16_224``: ``python -m benchmarks.tnt``.

TNT-Small at 224 x 224 pixels with batch 4, without classifier.
"""

from __future__ import annotations

import torch

from benchmarks.harness import arguments, report
from benchmarks.timm_peers import against, goals
from mmvit_ext.models.backbones.tnt import TNT

PEER = 'tnt_s_patch16_224'


def main() -> int:
    args = arguments(__doc__ or '')
    device = torch.device(args.device)
    torch.manual_seed(0)
    networks = [TNT('small', with_cp=with_cp) for with_cp in (False, True)]
    for network in networks:
        network.init_weights()
        network.to(device)
    rows = against(PEER, *networks, device, args.repeats)
    return 0 if report('TNT-Small, 224x224, batch 4', rows, goals(PEER), device, args.json) else 1


if __name__ == '__main__':
    raise SystemExit(main())
