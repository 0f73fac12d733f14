"""Time of an FS-neuron against the activation that it takes the place of, per gate input."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

import fs_neurons as fs
from experiments.timing import compared, in_turns, waiting
from fs_neurons import neuron
from fs_neurons.backend import compiled
from fs_neurons.neuron import sets as parameters


def unrolled(x: Any, p: fs.FSParameters) -> Any:
    """Equations (1)-(3) as plain operations of the framework, unrolled over the K steps."""
    v, y = x, ops.zeros_like(x)
    for T, h, d in zip(p.T, p.h, p.d, strict=True):
        z = ops.cast(v >= T, "float32")
        y += d * z
        v -= h * z
    return y


def while_loop(x: Any, p: fs.FSParameters) -> Any:
    """Equations (1)-(3) as the official code has them: a loop of the framework over the K steps.

    Each step scales the potential by (|v| + 1) for its pseudo-derivative, and adds to two means, those of
    the regularisation of training, whether they are used or not.
    """
    T, h, d = (ops.convert_to_tensor(a) for a in (p.T, p.h, p.d))

    def step(t: Any, v: Any, y: Any, too_far: Any, fired: Any) -> tuple[Any, ...]:
        scaled = (v - T[t]) / (ops.abs(v) + 1)
        z = ops.where(scaled >= 0, ops.ones_like(v), ops.zeros_like(v))
        too_far += ops.square(ops.mean(ops.maximum(ops.abs(scaled) - 1, 0)))
        return t + 1, v - h[t] * z, y + d[t] * z, too_far, fired + ops.mean(z)

    zero = ops.convert_to_tensor(np.float32(0))
    start = (ops.convert_to_tensor(0), x, ops.zeros_like(x), zero, zero)
    return ops.while_loop(lambda t, *_: t < p.K, step, start)[2]


def time_gate_inputs(elements: int, rounds: int) -> dict[str, Any]:
    """Nanoseconds per gate input of activations and their FS-neurons."""
    swish, relu = parameters.load("swish_k16_paper"), fs.relu_parameters(10, 25)
    functions = {
        "ReLU": ops.relu,
        "FS-ReLU K=10": lambda x: neuron.response(x, relu),
        "FS-ReLU K=10, spikes counted": lambda x: neuron.response_and_spikes(x, relu),
        "Swish": ops.silu,
        "FS-Swish K=16": lambda x: neuron.response(x, swish),
        "FS-Swish K=16, spikes counted": lambda x: neuron.response_and_spikes(x, swish),
        "FS-Swish K=16, unrolled": lambda x: unrolled(x, swish),
        "FS-Swish K=16, while loop": lambda x: while_loop(x, swish),
    }
    random = np.random.default_rng(0)
    for K in (4, 8, 12, 16, 24, 32):
        # Time does not depend on the values: T falls like a binary code's.
        T = 8.0 * 2.0 ** -np.arange(1, K + 1)
        p = fs.FSParameters(T, T, T * random.uniform(0.9, 1.1, K), name=f"any_k{K}")
        functions[f"any set, K={K}"] = lambda x, p=p: neuron.response(x, p)
    x = random.normal(-0.112, np.sqrt(1.99), (1, elements)).astype("float32")
    runs = {name: waiting(compiled(function), x) for name, function in functions.items()}
    for run in runs.values():
        run()  # compiles
    return compared(
        in_turns(runs, rounds), 1e9 / elements,
        {"FS-ReLU K=10": "ReLU", "FS-ReLU K=10, spikes counted": "ReLU",
         "FS-Swish K=16": "Swish", "FS-Swish K=16, spikes counted": "Swish",
         "FS-Swish K=16, unrolled": "FS-Swish K=16", "FS-Swish K=16, while loop": "FS-Swish K=16"},
    )  # fmt: skip
