"""``torch.compile`` of each repeated block by itself.

One form serves all blocks of a kind, so that a network of 24 layers compiles as quickly as one of two, and what stands
between the blocks (reading the labels, losses, gradient checkpointing) stays as it is. The modules are compiled in
place: their names and parameters do not change, copies and pickles are uncompiled, and forward hooks, adapters and
other wrappers of their children work, also those that are put there later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone

__all__ = ['compile_blocks', 'repeated_blocks']

LEAST_TORCH = (2, 5)  # older ones do not trace the networks whole
FIXED_SIZES = 2  # of a block whose graph depends on the size of the map: that of training and another one
KINDS = 64  # compiled forms of one function: kinds of blocks, modes, precisions, open and fixed sizes


class FewSizes:
    """Calls the compiled form for the first few sizes of the inputs, and for all others what was compiled."""

    def __init__(self, plain: Callable[..., Any], **options: Any) -> None:
        self.plain, self.compiled = plain, torch.compile(plain, dynamic=False, **options)
        self.sizes: set[tuple[torch.Size, ...]] = set()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        size = tuple(x.shape for x in (*arguments, *keywords.values()) if isinstance(x, Tensor))
        if size not in self.sizes and len(self.sizes) >= FIXED_SIZES:
            return self.plain(*arguments, **keywords)
        self.sizes.add(size)
        return self.compiled(*arguments, **keywords)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model's backbones, and the modules elsewhere that say ``compiled_alone``; none inside another."""
    found: dict[nn.Module, None] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, Backbone):
            blocks = [module.get_submodule(name) for name in module.block_names]
        else:
            blocks = [module] if getattr(module, 'compiled_alone', False) else []
        for block in blocks:
            if block not in inside:
                found[block] = None
                inside.update(block.modules())
    return list(found)


def compile_blocks(
    model: nn.Module, *, graphs: bool = False, backend: str | Callable[..., Any] | None = None, fall_back: bool = False
) -> str:
    """Compile every repeated block of a model in place.

    A block is compiled for one size of its inputs and then, where another one comes, once more for any size. One whose
    graph depends on the size, as pooling windows do (``compiled_for_fixed_sizes``), is compiled for two sizes, and
    runs as it is for others.

    Args:
        model: A network, or a model that has some inside.
        graphs: Whether their kernels are launched as CUDA graphs: for images of one size, on a GPU.
        backend: Of ``torch.compile``; ``'inductor'`` when not given.
        fall_back: Whether a block that cannot be compiled runs as it is; otherwise it is an error.

    Returns:
        What was done, in one sentence.
    """
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < LEAST_TORCH:
        wanted = '.'.join(map(str, LEAST_TORCH))
        return f'torch.compile: blocks are compiled from PyTorch {wanted} on, this is {torch.__version__}'
    blocks = [block for block in repeated_blocks(model) if block._compiled_call_impl is None]
    if not blocks:
        return 'torch.compile: the model has no blocks that are compiled one by one'
    note = ''
    if graphs and not any(parameter.is_cuda for parameter in model.parameters()):
        graphs, note = False, '; CUDA graphs need a GPU, and the model is on none'
    config = torch._dynamo.config
    config.skip_nnmodule_hook_guards = False  # a hook that is put on a child later is noticed
    config.recompile_limit = max(config.recompile_limit, KINDS)
    config.suppress_errors = fall_back  # of all that is compiled from now on
    for block in blocks:
        options: Any = {'backend': backend or 'inductor', 'mode': 'reduce-overhead' if graphs else None}
        if graphs or getattr(block, 'compiled_for_fixed_sizes', False):
            block._compiled_call_impl = FewSizes(block._call_impl, **options)
        else:
            block.compile(**options)
    kinds = ', '.join(f'{count} {name}' for name, count in Counter(type(block).__name__ for block in blocks).items())
    return f'torch.compile: {kinds}{", as CUDA graphs" if graphs else ""}{note}'
