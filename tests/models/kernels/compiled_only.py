"""Compile every kernel for a GPU of compute capability 9.0, which needs none; run by ``test_kernels.py``."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmvit_ext.models.kernels import cells, mask_losses, words

SIZES = {'WP': 64, 'BLOCK': 32, 'SUMS': 5, 'HEADS': 4, 'MP': 16, 'CP': 32, 'RP': 128, 'PP': 16, 'DP': 256}
LABELS, NUMBERS = ('label', 'classes', 'images'), ('ALPHA', 'eps1', 'eps2', 'scale')
INTEGERS = ('H', 'W', 'w', 'M', 'IGNORE', 'm', 'c', 'r', 'd', 'sh', 'sw', 'K', 'p')


def kind(name):
    if name in SIZES:
        return 'constexpr'
    if name in LABELS:
        return '*i64'
    return 'fp32' if name in NUMBERS else 'i32' if name in INTEGERS else '*fp32'


for kernel in (mask_losses._sums, mask_losses._gradient, words._layer, cells._cells, cells._merge):
    names = kernel.arg_names
    fixed = {(index,): SIZES[name] for index, name in enumerate(names) if name in SIZES}
    source = ASTSource(kernel, {name: kind(name) for name in names}, fixed)
    made = triton.compile(source, target=GPUTarget('cuda', 90, 32))
    assert '.entry' in made.asm['ptx']
    print(f'{made.metadata.name} compiled')
