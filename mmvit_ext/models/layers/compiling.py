"""Whether a graph is being traced, under the name that the installed torch has for it."""

import torch

__all__ = ['is_compiling']

# torch 2.1 knows only the private name, and its tracer treats both as the constant True
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling
