"""Keras layers of FS-neurons.

    x = keras.layers.Dense(64)(x)
    x = FSReLU(K=10, alpha=25)(x)                 # in place of keras.layers.ReLU()

    with record_spikes() as spikes:               # spikes per image of every FS layer that runs
        logits = model(images)
    for layer, count in spikes: ...

All layers are element-wise, keep the shape of their input, compute in float32 whatever the dtype policy
and are differentiable through a surrogate gradient. Saved models load after `import fs_neurons`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from fs_neurons import neuron
from fs_neurons.layers.recording import SiteRecord, records_now
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters, relu_parameters
from fs_neurons.neuron.sets import as_parameters, from_config, to_config

_register = keras.saving.register_keras_serializable(package="fs_neurons")


@_register
class FSActivation(keras.layers.Layer):
    """A layer of FS-neurons: y = sum of d(t) z(t), equations (1)-(3).

    With `ChannelParameters`, each channel has a set of its own. With `per_channel`, the neurons of channel c
    have T, h and d multiplied by scale[c], a trainable weight of the layer that is 1 at first:
    y = scale R(x / scale), where R is the response for `parameters`. The two may be combined.

    Args:
        parameters: FSParameters, ChannelParameters, or the name or path of a set that `sets.load` reads.
        activation: name of the activation function that the layer stands for, for reports.
        per_channel: whether each channel has a scale of its own.
        axis: of the channels of the scale; `ChannelParameters` have their own, which is then the same.
        passes_mask: whether a Keras mask of the input is handed on, as layers do; operations don't.
        note: on the choice of the parameters, for reports.

    Raises:
        ValueError, TypeError, FileNotFoundError: `parameters` is not a valid set, or for another number
            of channels than the input has; `per_channel`, and the number of channels is unknown.
    """

    def __init__(
        self,
        parameters: NeuronParameters | str | Mapping[str, Any],
        activation: str | None = None,
        per_channel: bool = False,
        axis: int = -1,
        passes_mask: bool = True,
        note: str = "",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if isinstance(parameters, Mapping):  # from a saved model
            parameters = from_config(parameters)
        if not isinstance(parameters, ChannelParameters):
            parameters = as_parameters(parameters)
        self.parameters = parameters
        self.activation_name = activation
        self.supports_masking = True
        self.passes_mask = passes_mask
        self.note = note
        self.per_channel = per_channel
        self.axis = parameters.axis if isinstance(parameters, ChannelParameters) else axis
        self.scale: Any = None
        self.built = isinstance(parameters, FSParameters) and not per_channel

    @property
    def parameters(self) -> NeuronParameters:
        """T, h and d."""
        return self._fs_parameters

    @parameters.setter
    def parameters(self, parameters: NeuronParameters) -> None:
        self._fs_parameters: NeuronParameters = parameters

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if isinstance(self.parameters, ChannelParameters):
            expected = self.parameters.channels
            rank = len(input_shape)
            if not -rank < self.axis < rank or input_shape[self.axis] not in (None, expected):
                raise ValueError(
                    f"layer {self.name!r} has parameters for {expected} channels on axis {self.axis}; its"
                    f" input has the shape {tuple(input_shape)}"
                )
        if self.per_channel:
            channels = input_shape[self.axis]
            if channels is None:
                raise ValueError(
                    f"layer {self.name!r}: per_channel needs a known number of channels; axis"
                    f" {self.axis} of {input_shape} is unknown"
                )
            self.scale = self.add_weight(
                (channels,), "ones", dtype="float32", autocast=False, name="scale"
            )

    def call(self, x: Any) -> Any:
        recording = records_now.get()
        if recording is None:
            y = neuron.response(x, self.parameters, self.scale, self.axis)
        else:
            records, measure = recording
            y, spikes = measure(self.in_units(x), self.parameters)
            y = self.out_of_units(y)
            records.append(SiteRecord(self, tuple(x.shape), spikes))
        return ops.cast(y, self.compute_dtype)

    def in_units(self, x: Any) -> Any:
        """Gate inputs over the scale of their channel: what `parameters` are for."""
        return x if self.scale is None else ops.cast(x, "float32") / self._scale_like(x)

    def out_of_units(self, y: Any) -> Any:
        """The inverse of `in_units`."""
        return y if self.scale is None else y * self._scale_like(y)

    def _scale_like(self, x: Any) -> Any:
        shape = [1] * len(x.shape)
        shape[self.axis] = -1
        return ops.reshape(self.scale, shape)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask if self.passes_mask else None

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "parameters": to_config(self.parameters),
            "activation": self.activation_name,
            "per_channel": self.per_channel,
            "axis": self.axis,
            "passes_mask": self.passes_mask,
            **({"note": self.note} if self.note else {}),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameters.name!r}, name={self.name!r})"


@_register
class FSSwish(FSActivation):
    """FS-neurons that emulate Swish, x sigmoid(x); the published set has K = 16 steps.

    Args:
        parameters: as for FSActivation.
    """

    def __init__(
        self,
        parameters: NeuronParameters | str | Mapping[str, Any] = "swish_k16_paper",
        activation: str = "silu",
        **kwargs: Any,
    ):
        super().__init__(parameters, activation, **kwargs)


@_register
class FSSigmoid(FSActivation):
    """FS-neurons that emulate the sigmoid; the published set has K = 12 steps.

    Args:
        parameters: as for FSActivation.
    """

    def __init__(
        self,
        parameters: NeuronParameters | str | Mapping[str, Any] = "sigmoid_k12_paper",
        activation: str = "sigmoid",
        **kwargs: Any,
    ):
        super().__init__(parameters, activation, **kwargs)


@_register
class FSReLU(FSActivation):
    """FS-neurons that emulate ReLU by bit shifts: T = h = d = alpha 2^-t, section 1.2.2.

    Args:
        K: number of time steps.
        alpha: upper end of the range; larger inputs give alpha (1 - 2^-K).
        rounding: "down", as in the paper, or "nearest".

    Raises:
        ValueError: as `relu_parameters`.
    """

    def __init__(
        self,
        K: int = 10,
        alpha: float = 25.0,
        rounding: str = "down",
        activation: str = "relu",
        **kwargs: Any,
    ):
        super().__init__(relu_parameters(K, alpha, rounding), activation, **kwargs)

    @property
    def parameters(self) -> FSParameters:
        """T, h and d; binary coded.

        Raises:
            TypeError: when set to what is no FSParameters.
            ValueError: when set to parameters that are not binary coded, which K and alpha can't describe.
        """
        parameters = self._fs_parameters
        assert isinstance(parameters, FSParameters)  # the setter takes nothing else
        return parameters

    @parameters.setter
    def parameters(self, parameters: NeuronParameters) -> None:
        if not isinstance(parameters, FSParameters):
            raise TypeError(
                f"layer {self.name!r}: FSReLU takes FSParameters, got {type(parameters).__name__}; use"
                " FSActivation"
            )
        if parameters.alpha is None:
            raise ValueError(
                f"layer {self.name!r}: FSReLU takes the parameters of fs.relu_parameters; FS parameters"
                f" {parameters.name!r} are not binary coded: use FSActivation"
            )
        self._fs_parameters = parameters

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["parameters"]
        p = self.parameters
        return {**config, "K": p.K, "alpha": p.alpha, "rounding": p.rounding}


def fs_layer(parameters: NeuronParameters, activation: str, **kwargs: Any) -> FSActivation:
    """The layer for parameters: FSReLU for a binary-coded ReLU, FSSwish, FSSigmoid or FSActivation.

    Args:
        parameters: T, h, d; ChannelParameters for sets that differ between channels.
        activation: name of the activation function that the layer stands for.
        kwargs: per_channel, axis and note of FSActivation; name and dtype of a Keras layer.
    """
    if (
        isinstance(parameters, FSParameters)
        and parameters.alpha is not None
        and _is_relu(activation)
    ):
        return FSReLU(
            parameters.K,
            parameters.alpha,
            parameters.rounding or "down",
            activation=activation,
            **kwargs,
        )
    layer = {"silu": FSSwish, "sigmoid": FSSigmoid}.get(activation, FSActivation)
    return layer(parameters, activation=activation, **kwargs)


def _is_relu(activation: str) -> bool:
    """Whether a name, with its options in brackets, is that of ReLU or of one that saturates."""
    return activation.split("(")[0] in ("relu", "relu6")
