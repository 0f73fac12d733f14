"""Converted networks in other formats: ONNX, TensorFlow SavedModel and LiteRT.

    export(snn, "snn.onnx")
    export(snn, "snn.tflite", format="litert")
    export(snn, "folder", format="tf_saved_model")
    export(snn, "net.nir", format="nir", images=x)

ONNX and LiteRT have no fused kernels: FS-ReLU becomes scaling, rounding and clipping, any other set two table
lookups, see `neuron.lookup`; ONNX Runtime refuses NaN there. A SavedModel keeps its kernels. In ONNX and LiteRT, recurrent layers
of FS-neurons are unrolled.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from fs_neurons.backend import without_kernels
from fs_neurons.conversion.nir_format import write_nir
from fs_neurons.conversion.onnx_graph import OnnxGraph
from fs_neurons.conversion.onnx_integers import to_integers
from fs_neurons.conversion.onnx_scales import fold_scales
from fs_neurons.conversion.onnx_sites import StandIns, fold_units, write_out
from fs_neurons.layers import RecurrentFS
from fs_neurons.layers.recurrent import without_loops
from fs_neurons.network.graph import trace
from fs_neurons.network.keras_internals import input_structure, parts_of, patch_tf2onnx

FORMATS = ("onnx", "tf_saved_model", "litert", "nir")
LITERT_SINCE = (3, 13)


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "onnx",
    *,
    integers: bool = False,
    **options: Any,
) -> None:
    """Writes a network for another runtime; it needs neither Keras nor this package there.

    Args:
        model: functional or sequential, with FS-neurons or without.
        path: file to write or replace; of "tf_saved_model" a folder. Missing folders are made.
        format: "onnx", "tf_saved_model", "litert", or "nir" for neuromorphic chips, see `nir_format`.
        integers: for "onnx": whether spikes of FS-ReLU with K <= 8 are integers of 8 bits, and so are the weights
            between two such sites, which takes less time and changes outputs a little. What stays in float
            is warned of. Processors without instructions for 8 bits (VNNI on x86) may gain nothing.
        options: of Keras' `model.export` for that format; for "onnx" only `opset_version`; for "nir" only
            `images`, whose spikes and class scores are to be in the file.

    Raises:
        RuntimeError: the backend is not TensorFlow; "nir" runs on all.
        ConversionError: what has no node in NIR, for "nir"; a recurrent layer of FS-neurons that can't be
            unrolled, for "onnx" and "litert": see `network.trace`.
        TypeError: not a Keras model.
        ValueError: another format, or a model that is not built; images of another shape than it takes; or
            `integers`, and the format is not "onnx" or no convolution is between two FS-ReLUs with K <= 8.
        ImportError: tf2onnx is missing, for "onnx", or nir, for "nir".
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model, got {type(model).__name__}")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built: begin it with keras.Input")
    if integers and format != "onnx":
        raise ValueError(f"integers=True is for format 'onnx', not {format!r}")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "nir":
        write_nir(model, path, **options)
        return
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"export runs on TensorFlow, and KERAS_BACKEND is {keras.backend.backend()}: save the model,"
            " and load and export it with KERAS_BACKEND=tensorflow"
        )
    if format == "onnx":
        _export_onnx(model, path, integers, **options)
    elif format == "litert":
        if tuple(map(int, keras.__version__.split(".")[:2])) < LITERT_SINCE:
            raise ValueError(
                f"format 'litert' needs Keras 3.13 or later; this is {keras.__version__}"
            )
        with without_kernels(), _unrolled(model):
            _at_inference(model).export(str(path), format=format, **{"verbose": False, **options})
    else:
        _at_inference(model).export(str(path), format=format, **{"verbose": False, **options})


def _at_inference(model: keras.Model) -> keras.Model:
    """The same network with layers that are told not to train: by default, Keras' augmentation layers do."""
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        input_structure(model),
    )
    return keras.Model(inputs, model(inputs, training=False), name=model.name)


def _export_onnx(
    model: keras.Model, path: pathlib.Path, integers: bool, opset_version: int | None = None
) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    structure = input_structure(model)
    symbols = keras.tree.flatten(structure)
    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, x.name) for x in symbols]

    def forward(*inputs: Any) -> list[Any]:
        outputs = model(keras.tree.pack_sequence_as(structure, list(inputs)), training=False)
        return [tf.identity(y) for y in keras.tree.flatten(outputs)]

    stand_ins = StandIns()
    with without_kernels(stand_ins), _unrolled(model):
        function = tf.function(forward, input_signature=signature, autograph=False)
        concrete = function.get_concrete_function()
    # Constants too: a layer that holds tensors, such as Normalization, would otherwise make inputs of them.
    frozen = convert_variables_to_constants_v2(
        concrete, lower_control_flow=False, aggressive_inlining=True
    )
    inputs, outputs = [[t.name for t in tensors] for tensors in (frozen.inputs, frozen.outputs)]
    names = {old: x.name for old, x in zip(inputs, symbols, strict=True)}
    patch_tf2onnx()
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(add_shapes=True),
        name=model.name,
        input_names=inputs,
        output_names=outputs,
        opset=opset_version,
        tensors_to_rename=names,
    )
    graph = OnnxGraph(proto)
    if integers:
        _make_integers(graph, stand_ins, model.name)
    else:
        fold_units(graph, stand_ins)
    write_out(graph, stand_ins)
    fold_scales(graph)
    graph.remove_unused()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = pathlib.Path(folder) / path.name
        onnx.save(graph.finish(), temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def _unrolled(model: keras.Model) -> Iterator[None]:
    """Recurrent layers of FS-neurons go through their sequences without a loop, inside of which no site is found."""
    if any(isinstance(part, RecurrentFS) for part in parts_of(model)):
        trace(model)  # refuses by name what can't be unrolled
    with without_loops():
        yield


def _make_integers(graph: OnnxGraph, stand_ins: StandIns, name: str) -> None:
    count, floats = to_integers(graph, stand_ins)
    if not count:
        raise ValueError(
            f"integers=True: no convolution of model {name!r} is between two FS-ReLUs with K <= 8: convert it"
            " with fold_batch_norm=True, and with relu=fs.relu_parameters(8, alpha) or without data"
        )
    if floats:
        warnings.warn(
            f"not FS-ReLU with K <= 8, so in float in the exported {name!r}: {', '.join(floats)}",
            stacklevel=4,
        )
