"""Each private name of Keras that the package uses does what it is used for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.network import keras_internals as internals


@pytest.fixture
def model():
    inputs = keras.Input((4,), name="x")
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inner")], name="block")
    y = layers.Add(name="sum")([inputs, block(inputs)])
    return keras.Model(inputs, ops.relu(y), name="whole")


def names(things):
    return [thing.name for thing in things]


def test_nodes_by_depth_are_in_order_of_execution(model):
    nodes = internals.nodes_of(model)
    assert names(node.operation for node in nodes)[:2] == ["block", "sum"]
    assert type(nodes[-1].operation).__name__ == "Relu"
    assert [len(node.input_tensors) for node in nodes] == [1, 2, 1]
    assert nodes[-1].outputs[0] is model.outputs[0]


def test_arguments_of_a_node_are_those_of_the_call():
    x = keras.Input((4,))
    y = ops.maximum(0, x)
    _, node, _ = internals.source_of(y)
    assert node.arguments.args[0] == 0 and node.arguments.args[1] is x


def test_functional_of_a_sequential_model(model):
    block = model.get_layer("block")
    assert names(node.operation for node in internals.nodes_of(block)) == ["inner"]
    assert internals.functional_of(model) is model
    assert internals.is_built(block)
    assert not internals.is_built(keras.Sequential([layers.Dense(2)]))


def test_keras_history_and_inbound_nodes(model):
    operation, node, index = internals.source_of(model.outputs[0])
    assert type(operation).__name__ == "Relu" and index == 0
    before, _, _ = internals.source_of(node.input_tensors[0])
    assert before is model.get_layer("sum")
    shared = layers.Dense(4)
    x = keras.Input((4,))
    shared(shared(x))
    assert len(internals.nodes_calling(shared)) == 2


def test_run_through_graph_replaces_operations(model):
    called = []

    def operation_fn(op):
        def call(*args, **kwargs):
            called.append(op.name)
            return op(*args, **kwargs)

        return call

    x = np.ones((2, 4), "float32")
    y = internals.run_graph(model, ops.convert_to_tensor(x), operation_fn)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), ops.convert_to_numpy(model(x)))
    assert called[:2] == ["block", "sum"] and len(called) == 3


def test_flatten_layers(model):
    assert {"whole", "x", "block", "inner", "sum"} <= set(names(internals.parts_of(model)))
    assert "whole" not in names(internals.parts_of(model, include_self=False))
    wrapped = layers.TimeDistributed(layers.Dense(2, name="inside"))
    assert "inside" in names(internals.parts_of(wrapped))


def test_output_shape_of_a_lambda():
    assert internals.output_shape_of(layers.Lambda(lambda x: x, output_shape=(3,))) == (3,)
    assert internals.output_shape_of(layers.Lambda(lambda x: x)) is None


def test_compute_output_spec_runs_nothing():
    x = {"a": keras.KerasTensor((None, 3)), "b": keras.KerasTensor((3, 5), "float32")}
    y = internals.output_spec(lambda x: ops.matmul(x["a"], x["b"]), x)
    assert isinstance(y, keras.KerasTensor) and y.shape == (None, 5)


def test_functional_like_constructor(model):
    class Own(keras.Model):
        pass

    class Other(keras.Model):
        def __init__(self, size):
            inputs = keras.Input((size,))
            super().__init__(inputs, inputs * 2)

    x = keras.Input((4,))
    assert internals.functional_class(model) is type(model)
    assert internals.functional_class(Own(x, x * 2)) is Own
    assert internals.functional_class(Other(3)) is keras.Model


def test_call_is_that_of_keras():
    class Named(layers.Dense):
        pass

    class Own(layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    assert internals.keeps_call(Named(3)) and not internals.keeps_call(Own(3))
    assert internals.is_of_keras(layers.Dense) and not internals.is_of_keras(Named)


def test_rewritable_models(model):
    class Own(keras.Model):
        def call(self, x):
            return x

    assert internals.is_rewritable(model) and internals.is_rewritable(model.get_layer("block"))
    assert not internals.is_rewritable(Own()) and not internals.is_rewritable(layers.Dense(2))
    assert names(internals.operations_of(model))[:3] == ["x", "block", "sum"]


def test_inputs_in_their_structure(model):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    several = keras.Model({"a": a, "b": b}, a + b)
    assert set(internals.input_structure(several)) == {"a", "b"}
    assert internals.input_structure(model).name == "x"
    assert internals.input_structure(model.get_layer("block")).shape == (None, 4)


@pytest.mark.parametrize("source", ["float32", "mixed_bfloat16"])
def test_dtype_policy_before_quantisation(source):
    quantised = keras.dtype_policies.get(f"int8_from_{source}")
    assert internals.without_quantization(quantised) == source
    plain = keras.dtype_policies.get(source)
    assert internals.without_quantization(plain) is plain
    assert internals.without_quantization(None) is None


def test_tf2onnx_is_patched_by_keras():
    pytest.importorskip("tf2onnx")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the exports are those of TensorFlow")
    internals.patch_tf2onnx()
    internals.patch_tf2onnx()  # a second time does no harm


@pytest.mark.parametrize("width", [3, 4])
def test_a_bias_is_added_along_the_channels_unless_it_is_said_not_to_be(width):
    layer = layers.Conv2D(4, 1, data_format="channels_first")
    x = np.random.default_rng(0).normal(size=(2, 4, 5, width)).astype(np.float32)
    bias = np.arange(4, dtype=np.float32)[:, None, None]
    added = ops.convert_to_numpy(ops.add(x, bias[None]))
    if not internals.misplaces_bias(layer, x.shape[1:]):
        np.testing.assert_array_equal(added, x + bias)
    assert not internals.misplaces_bias(layer, (4, 5, 3))
    assert not internals.misplaces_bias(layers.Conv2D(4, 1), (4, 5, 4))
