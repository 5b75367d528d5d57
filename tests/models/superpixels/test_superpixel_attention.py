"""Superpixel cross attention: its memory; its numbers are compared with dense attention in test_spformer.py."""

import torch

from mmvit_ext.models.superpixels.attention import SCAIteration


def saved_bytes(run):
    """Bytes of the distinct tensors that a call keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(kept.values())


def test_an_iteration_keeps_no_nine_copies_of_the_pixels():
    """In units of the pixel map; the nine shifted copies of keys and values alone would be 18."""
    module = SCAIteration(
        192,
        1,
        pixel_qkv='identity',
        positions='cpe',
        grids=((1, 1), (1, 1)),
        norm_cfg={'type': 'LN'},
        layer_scale_init=1e-5,
        update_pixels=True,
    )
    pixels, superpixels = torch.randn(2, 192, 28, 44, requires_grad=True), torch.randn(2, 192, 7, 11)
    size = pixels.numel() * 4
    others = saved_bytes(lambda: module.superpixel_qkv(module.superpixel_position(superpixels)))
    kept = (saved_bytes(lambda: module(pixels, superpixels)) - others) / size
    assert kept < 4.5
