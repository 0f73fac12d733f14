"""Gates of recurrent layers: fitted to what they meet at all steps, and what is known of that without data."""

import keras
import numpy as np
import pytest
from conftest import with_masks
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.calibration import input_statistics
from fs_neurons.calibration.expectation import observed
from fs_neurons.calibration.selection import family
from fs_neurons.layers import record_spikes
from fs_neurons.network.recurrent import fs_gates
from fs_neurons.neuron import ChannelParameters

STEPS, FEATURES, UNITS = 5, 3, 6
GATES = ("input", "forget", "candidate", "output")  # in the order of Keras' weights


def sequences(count=64, shape=(STEPS, FEATURES)):
    x = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    x[: count // 2, 3:] = 0  # masked where there is a mask
    return x


def network(*parts, masked=False, shape=(STEPS, FEATURES), batch=None, spread=1.0):
    first = keras.Input(shape, batch_size=batch)
    x = layers.Masking()(first) if masked else first
    for part in parts:
        x = part(x)
    model = keras.Model(first, x)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization):
            layer.set_weights([spread * rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


def lstm_by_hand(layer, x):
    """Gate inputs (samples, units) of every gate at the steps that are not zeros alone."""
    kernel, recurrent, bias = (ops.convert_to_numpy(w).astype(float) for w in layer.weights)
    met = {gate: [] for gate in (*GATES, "cell")}
    h, c = np.zeros((2, len(x), UNITS))
    for t in range(x.shape[1]):
        present = np.any(x[:, t] != 0, axis=1)
        z = dict(
            zip(GATES, np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1), strict=True)
        )
        i, f, o = (1 / (1 + np.exp(-z[gate])) for gate in ("input", "forget", "output"))
        z["cell"] = f * c + i * np.tanh(z["candidate"])
        for gate, inputs in z.items():
            met[gate].append(inputs[present])
        c = np.where(present[:, None], z["cell"], c)
        h = np.where(present[:, None], o * np.tanh(z["cell"]), h)
    return {gate: np.concatenate(inputs) for gate, inputs in met.items()}


class _Alike:
    importance, share = np.full(UNITS, 1 / UNITS), 0.0


@pytest.mark.parametrize("masked", [False, True])
def test_each_unit_gets_the_set_for_what_it_meets_at_all_steps(masked):
    model, x = network(layers.LSTM(UNITS, name="lstm"), masked=masked), sequences()
    if not masked:
        x[x == 0] = 0.5
    snn = fs.convert(model, calibration_data=x, steps=8)
    met = lstm_by_hand(model.get_layer("lstm"), x)
    for name, gate in snn.get_layer("lstm").cell.gates.items():
        members = family("tanh" if name in ("candidate", "cell") else "sigmoid", 8)
        expected = members.responses.expected(observed(met[name].astype(np.float32)))
        sets, index, _ = members.choose(expected, _Alike, 0.0, 0.0)
        given = gate.parameters
        if not isinstance(given, ChannelParameters):
            given = ChannelParameters((given,), np.zeros(UNITS, int))
        assert [given.members[i].name for i in given.index] == [sets[i].name for i in index]
    for a, b in zip(model.get_weights(), snn.get_weights(), strict=False):
        assert np.array_equal(a, b)


FORMS = {
    "several layers": lambda: (
        layers.Bidirectional(layers.GRU(4, return_sequences=True)), layers.LSTM(3), layers.Dense(2),
    ),
    "stack": lambda: (
        layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)])), layers.Dense(2),
    ),
    "relu": lambda: (
        layers.Dense(4, activation="relu"), layers.SimpleRNN(3, activation="relu"), layers.Dense(2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_calibrated_and_saved(name, tmp_path):
    model, x = network(*FORMS[name](), masked=True, spread=0.5), sequences()
    snn = fs.convert(model, calibration_data=x, steps=8)
    assert all(
        row.is_converted and "_k8" in row.parameters for row in fs.conversion_report(snn).rows
    )
    expected, outputs = (ops.convert_to_numpy(net(x)) for net in (model, snn))
    assert np.sqrt(np.mean((outputs - expected) ** 2)) < 0.1 * expected.std()
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(x)), outputs, atol=1e-6)


def test_convolutional_cells_are_calibrated():
    shape = (3, 6, 2)
    model = network(
        layers.ConvLSTM1D(3, 2), layers.Flatten(), layers.Dense(2), shape=shape, spread=0.5
    )
    x = sequences(32, shape)
    snn = fs.convert(model, calibration_data=x, steps=8)
    expected, outputs = (ops.convert_to_numpy(net(x)) for net in (model, snn))
    assert np.sqrt(np.mean((outputs - expected) ** 2)) < 0.1 * expected.std()


def test_spikes_have_a_price():
    model, x = network(layers.LSTM(UNITS), layers.Dense(2)), sequences()

    def spikes(snn):
        with record_spikes() as records:
            snn(x)
        return sum(int(ops.convert_to_numpy(record.spikes).sum()) for record in records)

    free, priced = (
        fs.convert(model, calibration_data=x, steps=8, spike_penalty=p) for p in (0.0, 0.1)
    )
    assert spikes(priced) < spikes(free)


def test_what_cannot_be_calibrated_is_refused_by_name():
    x = sequences()
    model = network(layers.GRU(2, name="gru"), layers.Dense(2), masked=True)
    with pytest.raises(ValueError, match="recurrent layer 'gru': take 'weights'"):
        fs.convert(model, calibration_data=x, steps=8, correction="joint")
    with pytest.raises(ValueError, match="'gru', all steps of all sequences are masked"):
        fs.convert(model, calibration_data=np.zeros_like(x), steps=8)
    model = network(layers.GRU(2, stateful=True, name="gru"), batch=len(x))
    with pytest.raises(fs.ConversionError, match="'gru' is stateful"):
        fs.convert(model, calibration_data=x, steps=8)
    layer = layers.TimeDistributed(layers.GRU(2, stateful=True, name="gru"), name="each")
    model = network(layer, shape=(2, STEPS, FEATURES), batch=20)
    with pytest.raises(fs.ConversionError, match="'each/gru' is stateful"):
        fs.convert(model, calibration_data=sequences(20, (2, STEPS, FEATURES)), steps=8)


def sets(model):
    """Of every gate, unit by unit."""
    return [
        [p.members[i].name for i in p.index] if isinstance(p, ChannelParameters) else p.name
        for _, gate in fs_gates(model.get_layer("layer"))
        for p in [gate.parameters]
    ]


@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=with_masks)])
def test_time_distributed_layers_are_calibrated_on_all_their_sequences(masked):
    shape = (3, STEPS, FEATURES)
    inner = network(layers.LSTM(UNITS, name="layer"), masked=masked, spread=0.5)
    each = layers.TimeDistributed(layers.LSTM(UNITS), name="layer")
    model = network(each, masked=masked, shape=shape)
    model.set_weights(inner.get_weights())
    x = sequences(32, shape)
    folded = fs.convert(inner, calibration_data=x.reshape(-1, *shape[1:]), steps=8)
    snn = fs.convert(model, calibration_data=x, steps=8)
    assert sets(snn) == sets(folded) and len(set(sets(snn)[0])) > 1
    expected = ops.convert_to_numpy(folded(x.reshape(-1, *shape[1:])))
    np.testing.assert_allclose(
        ops.convert_to_numpy(snn(x)).reshape(expected.shape), expected, atol=1e-5
    )


def test_statistics_of_time_distributed_layers_are_those_of_the_layer():
    inner = network(layers.BatchNormalization(), layers.GRU(UNITS, name="layer"))
    shape = (2, 3, STEPS, FEATURES)
    nested = layers.TimeDistributed(layers.TimeDistributed(layers.GRU(UNITS)), name="layer")
    model = network(layers.BatchNormalization(), nested, shape=shape)
    model.set_weights(inner.get_weights())
    ours, theirs = input_statistics(model), input_statistics(inner)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.site, mine.source) == (other.site, other.source)
        np.testing.assert_allclose(mine.mean, other.mean)
        np.testing.assert_allclose(mine.deviation, other.deviation)
    assert sets(fs.convert(model)) == sets(fs.convert(inner))


STATISTICS = {
    "lstm": lambda: layers.LSTM(UNITS, name="layer"),
    "gru": lambda: layers.GRU(UNITS, name="layer", go_backwards=True),
    "reset before": lambda: layers.GRU(UNITS, name="layer", reset_after=False),
    "both ways": lambda: layers.Bidirectional(layers.SimpleRNN(UNITS), name="layer"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_without_data_are_those_of_independent_inputs(name):
    """Gate inputs of a network whose inputs are as assumed: Gaussian, a different one at each step."""
    steps = 20
    model = network(STATISTICS[name](), shape=(steps, FEATURES), spread=0.4)
    normalized = network(
        layers.BatchNormalization(center=False, scale=False), STATISTICS[name](),
        shape=(steps, FEATURES),
    )  # fmt: skip
    normalized.get_layer("layer").set_weights(model.get_weights())
    x = np.random.default_rng(2).normal(size=(500, steps, FEATURES)).astype(np.float32)
    statistics = input_statistics(normalized)
    met = gate_inputs(model, x)
    assert set(met) == {s.site for s in statistics}
    for s in statistics:
        assert s.source == "propagated through weights" and s.mean.shape == (UNITS,)
        assert np.abs(s.mean - met[s.site].mean(axis=0)).max() < 0.2
        ratio = s.deviation / met[s.site].std(axis=0)
        assert ratio.min() > 1 / 1.5 and ratio.max() < 1.5


def gate_inputs(model, x):
    """What the gates of a converted network meet, by site."""
    met = {}

    def measure(gate_input, parameters):
        return neuron.response(gate_input, parameters), gate_input

    snn = fs.convert(model)
    names = {
        id(gate): f"layer/{path}" for path, gate in fs_gates(snn.get_layer("layer"))
    }  # fmt: skip
    with record_spikes(measure) as records:
        snn(x)
    for record in records:
        met.setdefault(names[id(record.layer)], []).append(ops.convert_to_numpy(record.spikes))
    return {name: np.concatenate(parts) for name, parts in met.items()}


def test_statistics_choose_sets_unit_by_unit():
    model = network(layers.BatchNormalization(), layers.LSTM(UNITS, name="lstm"))
    for steps in (None, 8):
        rows = fs.conversion_report(fs.convert(model, steps=steps)).rows
        assert {"sigmoid", "tanh"} == {
            r.activation for r in rows if f"_k{steps or 12}_scale" in r.parameters
        }
    # Nothing is known behind inputs of which nothing is known.
    model = network(layers.LSTM(UNITS, name="lstm"))
    assert {s.source for s in input_statistics(model)} == {"assumed input"}
    parameters = fs.convert(model).get_layer("lstm").cell.gates["forget"].parameters
    assert parameters.name == "sigmoid_k12"


def test_a_kept_layer_that_gives_its_states_stays_as_it_is():
    inputs = keras.Input((STEPS, FEATURES))
    outputs = layers.GRU(UNITS, return_state=True, name="gru")(inputs)
    x = layers.Dense(6, activation="relu")(layers.Concatenate()(outputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    snn = fs.convert(model, keep_layers=["gru"], calibration_data=sequences(), steps=6)
    for a, b in zip(model.layers[1].get_weights(), snn.layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
