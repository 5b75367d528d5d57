import numpy as np
import pytest
import torch

from mmvit_ext.checkpoints.convert import read_dinov2_onnx
from mmvit_ext.errors import UserError

onnx = pytest.importorskip('onnx')
FRONT = 'vit.embeddings.'


def write_graph(path, tensors):
    """A graph whose only calculation is one linear map, in the form that the exporter of PyTorch gives it."""
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node('MatMul', ['x', 'onnx::MatMul_7'], ['product']),
        make.make_node('Add', ['vit.encoder.layer.0.mlp.fc1.bias', 'product'], ['y']),
    ]
    values = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    ends = [[make.make_tensor_value_info(name, number, [1, width])] for name, width in (('x', 4), ('y', 6))]
    onnx.save(make.make_model(make.make_graph(nodes, 'vit', *ends, initializer=values)), path)


@pytest.fixture
def tensors():
    random = np.random.default_rng(0).standard_normal
    return {
        f'{FRONT}cls_token': random((1, 1, 4)),
        'onnx::Concat_3': random((1, 9, 4)),
        'onnx::Concat_2': random((1, 1, 4)),
        'onnx::MatMul_7': random((4, 6)),
        'vit.encoder.layer.0.mlp.fc1.bias': random(6),
        'decoder.bias': random(4),
    }


def test_linear_maps_and_the_position_embedding_are_put_together(tmp_path, tensors):
    write_graph(tmp_path / 'vit.onnx', tensors)
    found = read_dinov2_onnx(tmp_path / 'vit.onnx')
    fc1 = 'encoder.layer.0.mlp.fc1.'
    names = ['embeddings.cls_token', f'{fc1}bias', f'{fc1}weight', 'embeddings.position_embeddings']
    assert list(found) == names
    expected = torch.from_numpy(tensors['onnx::MatMul_7']).float().T
    assert torch.equal(found[f'{fc1}weight'], expected)
    position = np.concatenate([tensors['onnx::Concat_2'], tensors['onnx::Concat_3']], axis=1)
    assert torch.equal(found['embeddings.position_embeddings'], torch.from_numpy(position).float())


@pytest.mark.parametrize(
    ('missing', 'sentence'),
    [(f'{FRONT}cls_token', "no ViT of DINOv2's form"), ('onnx::Concat_3', 'position embedding should be two tensors')],
)
def test_another_graph_is_refused(tmp_path, tensors, missing, sentence):
    del tensors[missing]
    write_graph(tmp_path / 'vit.onnx', tensors)
    with pytest.raises(UserError, match=sentence):
        read_dinov2_onnx(tmp_path / 'vit.onnx')


def test_a_file_that_is_no_graph_is_named(tmp_path):
    (tmp_path / 'vit.onnx').write_text('# read me')
    for name in ('vit.onnx', 'missing.onnx'):
        with pytest.raises(UserError, match=f'{name} cannot be read as an ONNX graph'):
            read_dinov2_onnx(tmp_path / name)
