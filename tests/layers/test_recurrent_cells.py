"""Gated cells against plain numpy loops with FS activations, and what Keras' recurrent layers can do."""

import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import layers, ops

from fs_neurons.layers import FSActivation, RecurrentFS, record_spikes
from fs_neurons.layers.recurrent import FSGRUCell, FSLSTMCell, FSSimpleRNNCell
from fs_neurons.neuron.sets import load

IMAGES, STEPS, FEATURES, UNITS = 3, 4, 2, 5
SETS = {"tanh": load("tanh_k12"), "sigmoid": load("sigmoid_k12"), "other": load("sigmoid_k8")}
SETS["wide"] = load("softsign_k12")


def fs(name):
    """An FS activation in numpy, which counts its spikes for each image."""

    def activate(x, counts):
        y, _, count = plain_loop(x, SETS[name])
        counts.append(count.sum(axis=1))
        return y

    return activate


def cell_of(cls, gates, **arguments):
    layers_of = {gate: FSActivation(SETS[name], name=gate) for gate, name in gates.items()}
    return cls(UNITS, gates=layers_of, bias_initializer="normal", **arguments)


# Each gate has a set of its own, so that two that are exchanged give something else.
LSTM = {
    "input": "sigmoid",
    "forget": "other",
    "candidate": "tanh",
    "output": "wide",
    "cell": "sigmoid",
}
GRU = {"update": "sigmoid", "reset": "other", "candidate": "tanh"}


def plain_lstm(x, states, kernel, recurrent, bias, counts):
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
    i, f, g = (fs(LSTM[k])(v, counts) for k, v in (("input", i), ("forget", f), ("candidate", g)))
    o = fs(LSTM["output"])(o, counts)
    c = f * c + i * g
    h = o * fs(LSTM["cell"])(c, counts)
    return h, (h, c)


def plain_gru(x, states, kernel, recurrent, bias, counts):
    (h,) = states
    after = bias.ndim == 2
    b, r_b = bias if after else (bias, np.zeros_like(bias))
    of_x = np.split(x @ kernel + b, 3, axis=1)
    U = np.split(recurrent, 3, axis=1)
    r_b = np.split(r_b, 3)
    z = fs(GRU["update"])(of_x[0] + h @ U[0] + r_b[0], counts)
    r = fs(GRU["reset"])(of_x[1] + h @ U[1] + r_b[1], counts)
    inner = r * (h @ U[2] + r_b[2]) if after else (r * h) @ U[2]
    h = z * h + (1 - z) * fs(GRU["candidate"])(of_x[2] + inner, counts)
    return h, (h,)


def plain_rnn(x, states, kernel, recurrent, bias, counts):
    h = fs("tanh")(x @ kernel + states[0] @ recurrent + bias, counts)
    return h, (h,)


def sequence_of(x, step, states, weights, mask=None, backwards=False, zeros=False):
    """Outputs (images, steps, units), and spikes of each gate (gates, images), masked steps left out."""
    order = range(x.shape[1])
    outputs, total, before = [], 0, np.zeros_like(states[0])
    for t in reversed(order) if backwards else order:
        counts = []
        y, new = step(x[:, t], states, *weights, counts)
        present = np.ones(len(x), bool) if mask is None else mask[:, t]
        total = total + np.array(counts) * present
        before = np.where(present[:, None], y, 0 if zeros else before)
        states = [np.where(present[:, None], a, b) for a, b in zip(new, states, strict=True)]
        outputs.append(before)
    return np.stack(outputs, axis=1), total


CELLS = {
    "lstm": (lambda: cell_of(FSLSTMCell, LSTM), plain_lstm, 2),
    "lstm, implementation 1": (lambda: cell_of(FSLSTMCell, LSTM, implementation=1), plain_lstm, 2),
    "gru": (lambda: cell_of(FSGRUCell, GRU), plain_gru, 1),
    "gru, reset before": (lambda: cell_of(FSGRUCell, GRU, reset_after=False), plain_gru, 1),
    "rnn": (lambda: cell_of(FSSimpleRNNCell, {"state": "tanh"}), plain_rnn, 1),
}
MASK = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1]], bool)


def numpy_of(tensors):
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(tensors)]


@pytest.mark.parametrize("how", [{}, {"go_backwards": True}, {"zero_output_for_mask": True}])
@pytest.mark.parametrize("name", CELLS)
def test_outputs_and_spikes_are_those_of_a_plain_loop(name, how):
    make, step, states = CELLS[name]
    random = np.random.default_rng(0)
    x = random.normal(scale=2, size=(IMAGES, STEPS, FEATURES)).astype(np.float32)
    layer = RecurrentFS(make(), return_sequences=True, **how)
    layer.build(x.shape)
    mask = MASK if "zero_output_for_mask" in how else None
    expected, spikes = sequence_of(
        x, step, [np.zeros((IMAGES, UNITS), np.float32)] * states, layer.get_weights(), mask,
        how.get("go_backwards", False), "zero_output_for_mask" in how,
    )  # fmt: skip
    (actual,) = numpy_of(layer(x, mask=mask))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    with record_spikes() as records:
        (recorded,) = numpy_of(layer(x, mask=mask))
    np.testing.assert_allclose(recorded, actual, atol=1e-6)
    gates = list(layer.cell.gates.values())
    assert [record.layer for record in records] == gates * STEPS
    counted = np.array(numpy_of([r.spikes for r in records])).reshape(STEPS, len(gates), IMAGES)
    order = {gate: i for i, gate in enumerate(layer.cell.gates)}
    assert list(order) == list(layer.cell.GATES)
    np.testing.assert_array_equal(counted.sum(axis=0), spikes)


def test_masks_and_initial_states_are_the_same_while_spikes_are_recorded():
    random = np.random.default_rng(1)
    x, h, c = (random.normal(size=s).astype(np.float32) for s in
               ((IMAGES, STEPS, FEATURES), (IMAGES, UNITS), (IMAGES, UNITS)))  # fmt: skip
    for return_sequences in (False, True):
        layer = RecurrentFS(
            cell_of(FSLSTMCell, LSTM), return_state=True, return_sequences=return_sequences
        )
        plain = numpy_of(layer(x, initial_state=[h, c], mask=MASK))
        with record_spikes():
            recorded = numpy_of(layer(x, initial_state=[h, c], mask=MASK))
        for a, b in zip(plain, recorded, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_stack_is_recorded_once_per_step():
    x = np.random.default_rng(2).normal(size=(IMAGES, STEPS, FEATURES)).astype(np.float32)
    cells = [cell_of(FSLSTMCell, LSTM), cell_of(FSGRUCell, GRU)]
    layer = RecurrentFS(layers.StackedRNNCells(cells))
    with record_spikes() as records:
        recorded = numpy_of(layer(x))
    assert len(records) == STEPS * (5 + 3)
    np.testing.assert_allclose(recorded[0], numpy_of(layer(x))[0], atol=1e-6)


def test_a_stateful_layer_goes_on_where_it_stopped():
    x = np.random.default_rng(3).normal(size=(IMAGES, STEPS, FEATURES)).astype(np.float32)
    cell = cell_of(FSGRUCell, GRU)
    whole = RecurrentFS(cell, return_sequences=True)
    parts = RecurrentFS(cell, return_sequences=True, stateful=True)
    expected = numpy_of(whole(x))[0]
    actual = np.concatenate([numpy_of(parts(x[:, :2]))[0], numpy_of(parts(x[:, 2:]))[0]], axis=1)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_gates_with_weights_of_their_own_are_saved(tmp_path):
    gates = {"state": FSActivation("tanh_k12", per_channel=True, name="state")}
    layer = RecurrentFS(FSSimpleRNNCell(UNITS, gates=gates), unroll=True, name="rnn")
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layer])
    layer.cell.gates["state"].scale.assign(np.linspace(0.5, 2, UNITS))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(4).normal(size=(IMAGES, STEPS, FEATURES)).astype(np.float32)
    np.testing.assert_array_equal(numpy_of(loaded(x))[0], numpy_of(model(x))[0])
    assert loaded.get_layer("rnn").unroll


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match=r"no gate 'forgot'.*input, forget"):
        FSLSTMCell(UNITS, gates={"forgot": FSActivation("tanh_k12")})


def test_a_cell_that_applies_other_activations_is_an_error():
    class Changed(FSSimpleRNNCell):
        GATES = {"state": "activation", "more": "activation"}  # noqa: RUF012

    with pytest.raises(RuntimeError, match="this version of Keras"):
        Changed(UNITS)(np.ones((1, FEATURES), np.float32), [np.ones((1, UNITS), np.float32)])
