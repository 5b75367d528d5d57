"""SETR's optimisation with the PUP and MLA decoders over 160k iterations, total batch 16 (arXiv 2012.15840).

As the naive one, but with a tenth of its learning rate, as mmseg's configs for ADE20K have it.
"""

_base_ = './setr_160k.py'

optim_wrapper = dict(optimizer=dict(lr=1e-3))
