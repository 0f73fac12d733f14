"""The mean output of each channel of a site, by the offset of the layer before it.

Layers with an offset behind a site make up for a mean error of its neurons. Between the last sites and the outputs of a
network there may be none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.calibration.corrections import offset_of
from fs_neurons.calibration.neurons import Neurons
from fs_neurons.calibration.pair import Pair
from fs_neurons.calibration.store import Store
from fs_neurons.network import Site
from fs_neurons.network.graph import Call
from fs_neurons.network.keras_internals import misplaces_bias

# Of the standard deviation of a channel's gate inputs: twice the largest shift, and the step that slopes are taken with.
TWICE_LARGEST_SHIFT, STEP, TINY = 0.5, 0.1, 1e-12
# Gate inputs that means are taken of.
COUNTED = 1_000_000


def is_last(pair: Pair, call: Call) -> bool:
    """Whether an output of the network comes from a site without a layer with an offset, or a site, in between."""
    reached = {call.outputs.index}
    for following in pair.graph.calls[pair.graph.calls.index(call) + 1 :]:
        makes_up = pair.site(following) is not None or offset_of(following.op) is not None
        if not makes_up and any(value.index in reached for value in following.inputs):
            reached |= {value.index for value in keras.tree.flatten(following.outputs)}
    return any(value.index in reached for value in keras.tree.flatten(pair.graph.outputs))


def centre(
    pair: Pair, call: Call, neurons: Neurons, given: np.ndarray, wanted: np.ndarray, store: Store
) -> None:
    """Shifts the gate inputs of a site so that each channel has the mean output of the analog network.

    Nothing changes where no layer before the site has an offset for each channel, or other layers take what the site
    takes.

    Args:
        pair: of the networks; the offset is changed in place.
        call: of a site whose neurons are fitted.
        neurons: these.
        given, wanted: its gate inputs in the spiking and in the analog network at the same places, (samples, channels).
        store: has its gate inputs in the spiking network, which are shifted as well.
    """
    (value,) = call.inputs
    site, axis = pair.site(call), pair.axes[call.op.site]
    before = next((c for c in pair.graph.calls if c.outputs is value), None)
    if site is None or axis is None or before is None:
        return
    is_output = pair.graph.last_uses[value.index] == len(pair.graph.calls)
    shared = is_output or len(pair.graph.consumers[value.index]) > 1 or pair.uses[id(before.op)] > 1
    offset = None if shared else offset_of(before.op)
    if offset is None or misplaces_bias(before.op, value.shape):
        return
    shape = [1] * (len(value.shape) + 1)
    shape[axis] = given.shape[1]
    every = max(1, given.size // COUNTED)
    given, wanted = (x[::every].reshape(-1, *shape[1:]) for x in (given, wanted))
    change = shift(site, neurons, given, wanted)
    offset.assign(ops.convert_to_numpy(offset) + change.ravel())
    for batch in store.batches:
        x = store.spiking.get(batch, value)
        moved = x + ops.cast(ops.convert_to_tensor(change[None]), x.dtype)
        store.spiking.put(batch, value, moved)


def shift(site: Site, neurons: Neurons, given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What is to be added to the gate inputs, float32 (...): one step of Newton's method.

    Args:
        site, neurons: what is computed exactly, and by neurons.
        given, wanted: gate inputs in the spiking and in the analog network, (samples, ...), all but the channels 1.
    """
    deviation = given.std(axis=0) + TINY

    def mean(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
        y = function(ops.convert_to_tensor(x))
        return np.asarray(ops.convert_to_numpy(y).mean(axis=0, dtype=float))

    missing = mean(site.function, wanted) - mean(neurons.response, given)
    step = (STEP * deviation).astype(np.float32)
    slope = (mean(site.function, given + step) - mean(site.function, given - step)) / (2 * step)
    # Where the function is flat, a shift would have to be large, and do little.
    least = np.abs(missing) / (TWICE_LARGEST_SHIFT * deviation)
    return np.asarray(missing * slope / (slope**2 + least**2 + TINY), np.float32)
