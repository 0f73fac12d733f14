"""Converted networks as NIR, the Neuromorphic Intermediate Representation: a file that chips' tools read.

    export(snn, "net.nir", format="nir", images=x)

Weights become Conv2d, Affine, SumPool2d, Scale and Flatten nodes, branches that meet several edges into one node, delays
Delay nodes. Values are channels first, as NIR has them. NIR has no neuron whose threshold changes with time, so a
site is a Threshold node whose metadata holds

    T, h, d     (K, channels), equations (1)-(3)
    window      in which it fires, counted from the image's first, each of K steps
    constant    current that arrives once, where there is one beside the biases

A spike at step t puts d(t) on the edges behind its neuron; biases arrive once. NIR has no products either: the factors leave
the graph by Output nodes, and the product comes back by an Input node whose metadata holds

    other       Output node of the factor that is complete before `window`
    carrier     Output node of the factor of spikes: for each one d(t) times the other comes back in `window`

A sum of integers that is shifted leaves and comes back likewise, `other` and `shift`: when its `window` ends, without so
many of the lowest bits of each channel, rounded to the nearest, halves upwards; those of one window in the order of their `place`.

With images, the metadata of the graph
holds them, that of each Threshold node its `spikes` (image, step, index of the neuron), and that of the Output node
the class `scores`. `examples/run_nir.py` runs such a file without Keras or this package.

Reference: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 15, 2024.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.backend import as_numpy
from fs_neurons.conversion.folding import fold
from fs_neurons.conversion.nir_kernels import (
    channels_first,
    constants_of,
    dense_kernel,
    moved,
    same_padding,
    spikes_of,
    symmetric,
)
from fs_neurons.conversion.nir_nodes import INPUT, OUTPUT, Nodes, Term
from fs_neurons.network import kinds
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.geometry import data_axis
from fs_neurons.network.graph import Call, trace_spiking
from fs_neurons.network.keras_internals import input_structure, parts_of
from fs_neurons.network.kinds import Kind, applies_activation, kind_of

VERSION = 1

_NORMALIZATIONS = (layers.BatchNormalization, layers.Normalization)
FAITHFUL, WITH_METADATA = "faithful", "with metadata"


def write_nir(model: keras.Model, path: pathlib.Path, images: Any = None) -> None:
    """Writes a network as NIR.

    Args:
        model: converted, with one input and one output, the class scores; channels last. Batch
            normalization is folded into its weights.
        path: file to write or replace; nothing is written where anything can't be.
        images: inputs whose spikes and class scores are to be in the file.

    Raises:
        ConversionError: what NIR has no node for, by name.
        ValueError: images of another shape than the model takes.
        ImportError: the package nir is missing.
    """
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "format 'nir' needs the package nir: pip install fs_neurons[nir]"
        ) from error

    # A network in integers has been folded; its Rescaling layers are units, which are to stay apart.
    normalised = any(isinstance(part, _NORMALIZATIONS) for part in parts_of(model))
    folded = fold(model)[0] if normalised else model
    writer = _Writer(trace_spiking(folded), input_structure(folded), nir)
    graph = writer.graph(images)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = pathlib.Path(folder) / path.name
        nir.write(temporary, graph)
        nir.read(temporary)  # whose checks of types it must pass
        os.replace(temporary, path)


def forms() -> list[tuple[str, str, str]]:
    """Kind of layer, NIR nodes that it becomes, and how faithful they are; what is not listed is refused."""
    return [(kind.name, form.nodes, form.kept) for kind, form in _FORMS.items()]


class _Writer(Nodes):
    """Makes nodes and edges, call by call."""

    def graph(self, images: Any) -> Any:
        inputs, outputs = self.network.inputs, keras.tree.flatten(self.network.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise ConversionError(
                f"nir: the model has {len(inputs)} inputs and {len(outputs)} outputs; export one with one of"
                " each"
            )
        shape = channels_first(inputs[0].shape)
        self.nodes[INPUT] = self.nir.Input(input_type={"input": np.array(shape)})
        self.terms[inputs[0]] = [Term(INPUT, 0)]
        size = np.array(channels_first(outputs[0].shape))
        output = self.nodes[OUTPUT] = self.nir.Output(output_type={"output": size})
        constants = constants_of(self.coding, self.structure)
        for call in self.network.calls:
            form = _FORMS.get(kind_of(call.op))
            # Only a dense layer takes entries in another order.
            ordered = not self.order.keys() & set(call.inputs) or kind_of(call.op) is kinds.DENSE
            if not ordered or form is None or not form.write(self, call):
                raise ConversionError(
                    f"nir: {call.name!r} ({type(call.op).__name__}) has no NIR node; see the table in"
                    " docs/chip.md"
                )
            holds = call.is_site or kind_of(call.op) in (kinds.PRODUCT, kinds.SHIFT)
            if holds and np.any(constants[call.outputs]):
                node = self.nodes[self.terms[call.outputs][0].node]
                node.metadata["constant"] = constants[call.outputs]
        self.connected(OUTPUT, outputs[0])
        if np.any(constants[outputs[0]]):
            output.metadata["constant"] = constants[outputs[0]]
        depth = int(self.coding.windows[outputs[0].index])
        metadata = {"fs_neurons": VERSION, "K": self.K, "windows": depth + 1}
        if images is not None:
            images = as_numpy(images)
            if images.shape[1:] != tuple(inputs[0].shape):
                raise ValueError(
                    f"images have the shape {images.shape}, and the model takes (images, *{tuple(inputs[0].shape)})"
                )
            events, output.metadata["scores"] = spikes_of(self.network, self.structure, images)
            for value, spikes in events.items():
                self.nodes[self.terms[value][0].node].metadata["spikes"] = spikes
            metadata["images"] = moved(images.astype(np.float32))
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    # --- sites ----------------------------------------------------------------------------------

    def site(self, call: Call) -> bool:
        op: Any = call.op
        p, shape = op.parameters, call.outputs.shape
        channels = shape[-1]
        differs = op.per_channel or p.T.ndim > 1
        if differs and op.axis not in (-1, len(shape)):
            raise ConversionError(
                f"nir: the neurons of {call.name!r} differ along another axis than the last"
            )
        scale = 1.0 if op.scale is None else ops.convert_to_numpy(op.scale)
        rows = {
            name: np.broadcast_to(getattr(p, name).reshape(p.K, -1), (p.K, channels)) * scale
            for name in ("T", "h", "d")
        }
        metadata: dict[str, Any] = {k: v.astype(np.float32) for k, v in rows.items()}
        metadata["window"] = self._window(call)
        first = np.broadcast_to(
            rows["T"][0].reshape((-1,) + (1,) * (len(shape) - 1)), channels_first(shape)
        )
        node = self.nir.Threshold(threshold=first.astype(np.float32), metadata=metadata)
        return self.made(call, self.add(call.name, node, call.inputs[0]))

    # --- layers ---------------------------------------------------------------------------------

    def convolution(self, call: Call) -> bool:
        op: Any = call.op
        value = call.inputs[0]
        if len(value.shape) != 3 or data_axis(op) != -1 or applies_activation(op):
            return False
        kernel, *bias = (w.astype(np.float32) for w in op.get_weights())
        kernel = dense_kernel(kernel, call, value.shape[-1])
        pads = self.pads.get(value, [(0, 0), (0, 0)])
        size = tuple(n - sum(pad) for n, pad in zip(value.shape, pads, strict=False))
        rates = zip(value.shape, kernel.shape, op.strides, op.dilation_rate, strict=False)
        own = [same_padding(*rate) if op.padding == "same" else (0, 0) for rate in rates]
        pads = [(a + c, b + d) for (a, b), (c, d) in zip(pads, own, strict=True)]
        weight, padding = symmetric(kernel, pads, op.dilation_rate)
        if weight is None or weight.shape[2] != weight.shape[3]:
            return False
        zeros = np.zeros(weight.shape[0], np.float32)
        node = self.nir.Conv2d(
            input_shape=size, weight=weight, stride=tuple(op.strides), padding=padding,
            dilation=tuple(op.dilation_rate), groups=1, bias=bias[0] if bias else zeros,
        )  # fmt: skip
        return self.made(call, self.add(call.name, node, value))

    def dense(self, call: Call) -> bool:
        op: Any = call.op
        value = call.inputs[0]
        if len(value.shape) != 1 or applies_activation(op):
            return False
        kernel, *bias = (w.astype(np.float32) for w in op.get_weights())
        if value in self.order:
            kernel = kernel[self.order[value]]
        zeros = np.zeros(kernel.shape[1], np.float32)
        node = self.nir.Affine(weight=kernel.T.copy(), bias=bias[0] if bias else zeros)
        return self.made(call, self.add(call.name, node, value))

    def affine(self, call: Call) -> bool:
        """A scale for each entry; what is added is a constant of the sites behind."""
        op: Any = call.op
        value = call.inputs[0]
        self.terms[call.outputs] = self.terms[value]
        if isinstance(op, layers.Rescaling):
            scale = np.broadcast_to(np.asarray(op.scale, np.float32), (1, *value.shape))
        else:
            ends = (np.full((1, *value.shape), x, np.float32) for x in (0, 1))
            at_0, at_1 = (ops.convert_to_numpy(call(lambda _: x)) for x in ends)  # noqa: B023
            scale = at_1 - at_0
        if np.all(scale == 1):
            return True
        return self.made(
            call, self.add(call.name, self.nir.Scale(scale=moved(scale)[0].copy()), value)
        )

    def sum(self, call: Call) -> bool:
        """Several edges into one node; the sum of an image is a window of its size."""
        name = type(call.op).__name__
        if name == "Add":
            terms = [term for value in call.inputs for term in self.terms[value]]
            alike = len({value.shape for value in call.inputs}) == 1
            if not alike or len(call.inputs) < 2 or len(set(terms)) < len(terms):
                return False
            self.terms[call.outputs] = terms
            return True
        return name == "Sum" and self.pooled(call, whole=True)

    def pooled(self, call: Call, whole: bool = False) -> bool:
        op: Any = call.op
        value = call.inputs[0]
        if (
            len(value.shape) != 3
            or data_axis(op) != -1
            or getattr(op, "padding", "valid") != "valid"
        ):
            return False
        summed = type(op).__name__ == "Sum"
        window = value.shape[:2] if whole else tuple(op.pool_size)
        if summed and tuple(np.ravel(op.axis)) not in ((1, 2), (-3, -2)):
            return False
        strides = (1, 1) if whole else tuple(op.strides)
        node = self.nir.SumPool2d(
            kernel_size=np.array(window), stride=np.array(strides), padding=np.array([0, 0])
        )
        name = self.add(call.name, node, value)
        self.made(call, name)
        shape = [value.shape[2], *((1, 1) if whole else channels_first(call.outputs.shape)[1:])]
        if not summed:
            scale = np.full(shape, 1 / (window[0] * window[1]), np.float32)
            name = self.behind(f"{call.name}_mean", self.nir.Scale(scale=scale), call)
        if len(call.outputs.shape) == 1:
            flat = self.nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)
            self.behind(f"{call.name}_flat", flat, call)
        return True

    def global_pooled(self, call: Call) -> bool:
        return self.pooled(call, whole=True)

    def reshaped(self, call: Call) -> bool:
        value = call.inputs[0]
        if call.outputs.shape == value.shape:
            self.terms[call.outputs] = self.terms[value]
            return True
        if len(call.outputs.shape) != 1:
            return False
        index = np.arange(int(np.prod(value.shape))).reshape(1, *value.shape)
        order = moved(index).ravel()
        if np.any(np.diff(order) != 1):
            self.order[call.outputs] = order
        shape = np.array(channels_first(value.shape))
        flat = self.nir.Flatten(input_type={"input": shape}, start_dim=0, end_dim=-1)
        return self.made(call, self.add(call.name, flat, value))

    def multiplied(self, call: Call) -> bool:
        """Outside of the graph: both factors leave it, the carrier in the window in which the product comes back."""
        product = self.coding.products.get(call)
        if product is None:
            return False
        (carrier,) = self.terms[product.carrier]
        return self.outside(
            call, {"window": self._window(call)}, other=(product.other, self.terms[product.other]),
            carrier=(product.carrier, [carrier]),
        )  # fmt: skip

    def shifted(self, call: Call) -> bool:
        """Outside of the graph: a sum leaves it, and comes back without its lowest bits when its window ends."""
        op: Any = call.op
        value = call.inputs[0]
        place = self.network.calls.index(call)
        bits = np.broadcast_to(op.bits, value.shape[-1:]).copy()
        metadata = {"window": self._window(call), "shift": bits, "place": place}
        return self.outside(call, metadata, other=(value, self.terms[value]))

    def _window(self, call: Call) -> int:
        return int(self.coding.windows[call.outputs.index])

    def padded(self, call: Call) -> bool:
        """Goes into the convolution behind it."""
        op: Any = call.op
        consumers = self.network.consumers.get(call.outputs.index, ())
        known = (kinds.CONVOLUTION, kinds.DEPTHWISE)
        if not isinstance(op, layers.ZeroPadding2D) or data_axis(op) != -1:
            return False
        if not consumers or any(kind_of(c.op) not in known for c in consumers):
            return False
        before = self.pads.get(call.inputs[0], [(0, 0), (0, 0)])
        self.pads[call.outputs] = [
            (a + c, b + d) for (a, b), (c, d) in zip(before, op.padding, strict=True)
        ]
        self.terms[call.outputs] = self.terms[call.inputs[0]]
        return True

    def unchanged(self, call: Call) -> bool:
        if kind_of(call.op) is kinds.ACTIVATION and (
            not isinstance(call.op, layers.Activation) or applies_activation(call.op)
        ):
            return False
        self.terms[call.outputs] = self.terms[call.inputs[0]]
        return True


class _Form(NamedTuple):
    """What a kind of layer becomes.

    Attributes:
        nodes: for the table.
        kept: whether the nodes say it all.
        write: (writer, call) -> whether it could be written.
    """

    nodes: str
    kept: str
    write: Callable[[_Writer, Call], bool] = _Writer.unchanged


_FORMS: dict[Kind, _Form] = {
    kinds.NEURONS: _Form("Threshold", WITH_METADATA, _Writer.site),
    kinds.CONVOLUTION: _Form("Conv2d", FAITHFUL, _Writer.convolution),
    kinds.DEPTHWISE: _Form("Conv2d", FAITHFUL, _Writer.convolution),
    kinds.DENSE: _Form("Affine", FAITHFUL, _Writer.dense),
    kinds.SUM: _Form("edges into one node; SumPool2d", FAITHFUL, _Writer.sum),
    kinds.PRODUCT: _Form("outside: Output, Input", WITH_METADATA, _Writer.multiplied),
    kinds.SHIFT: _Form("outside: Output, Input", WITH_METADATA, _Writer.shifted),
    kinds.AFFINE: _Form("Scale; an offset is a constant", WITH_METADATA, _Writer.affine),
    kinds.AVERAGE_POOLING: _Form("SumPool2d, Scale", FAITHFUL, _Writer.pooled),
    kinds.GLOBAL_AVERAGE_POOLING: _Form(
        "SumPool2d, Scale, Flatten", FAITHFUL, _Writer.global_pooled
    ),
    kinds.PADDING: _Form("padding of Conv2d", FAITHFUL, _Writer.padded),
    kinds.RESHAPING: _Form("Flatten", FAITHFUL, _Writer.reshaped),
    kinds.IDENTITY: _Form("none", FAITHFUL),
    kinds.AUGMENTATION: _Form("none", FAITHFUL),
    kinds.ACTIVATION: _Form("none, if linear", FAITHFUL),
}
