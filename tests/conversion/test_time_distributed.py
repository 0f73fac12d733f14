"""TimeDistributed around recurrent layers: every tool sees the layer at each outer step, with neurons of its own there."""

import collections

import keras
import numpy as np
import pytest
from conftest import plain_loop, with_masks
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.layers import record_spikes
from fs_neurons.network import trace
from fs_neurons.network.recurrent import fs_gates

OUTER, STEPS, FEATURES, UNITS = 2, 4, 3, 3
SHAPE = (OUTER, STEPS, FEATURES)


def sequences(count=3, shape=SHAPE):
    x = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    x[0, 0, 2:] = 0  # masked where there is a mask
    x[1, 1, :1] = 0
    return x


def network(*parts, masked=False, shape=SHAPE):
    first = keras.Input(shape)
    x = layers.Masking()(first) if masked else first
    for part in parts:
        x = part(x)
    return keras.Model(first, x)


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


def spikes_of(result):
    return {site.name: site.total_spikes for site in result.layers}


def test_spikes_of_a_simple_network_counted_by_hand():
    """On a grid on which float32 is exact, whatever the order of a sum."""
    rng = np.random.default_rng(1)
    layer = layers.SimpleRNN(UNITS, activation="relu", return_sequences=True)
    model = network(layers.TimeDistributed(layer, name="each"))
    weights = [
        rng.integers(-8, 9, size=w.shape).astype(np.float32) / 8 for w in layer.get_weights()
    ]
    layer.set_weights(weights)
    relu = fs.relu_parameters(K=6, alpha=4)
    snn = fs.convert(model, relu=relu)
    x = rng.integers(-16, 17, size=(5, *SHAPE)).astype(np.float32) / 8
    kernel, recurrent, bias = weights
    total, outputs = 0, np.zeros((5, OUTER, STEPS, UNITS), np.float32)
    for image, entry in np.ndindex(5, OUTER):
        h = np.zeros(UNITS, np.float32)
        for t in range(STEPS):
            h, _, count = plain_loop(x[image, entry, t] @ kernel + h @ recurrent + bias, relu)
            outputs[image, entry, t] = h
            total += count.sum()
    result, simulated = fs.profile(snn, x, batch_size=2), fs.simulate(snn, x)
    (site,) = result.layers
    assert total > 0 and site.total_spikes == total == simulated.spikes.sum()
    np.testing.assert_array_equal(numpy_of(snn(x)), outputs)
    np.testing.assert_array_equal(simulated.outputs, outputs)
    assert (site.shape, site.neurons, site.steps) == ((OUTER, UNITS), OUTER * UNITS, STEPS)
    assert site.inputs.count == 5 * OUTER * STEPS * UNITS
    # To the output, and to the neurons of the next step of the same sequence.
    assert site.fan_out == (1, 1 + UNITS)


def lstm_by_hand(layer, x, present):
    """Spikes of each gate, and the smallest distance of a potential from a threshold."""
    gates = dict(fs_gates(layer))
    kernel, recurrent, bias = (numpy_of(w) for w in layer.layer.weights[:3])
    spikes, nearest = dict.fromkeys(gates, 0), np.inf

    def fire(name, z, counts):
        nonlocal nearest
        p = gates[name].parameters
        y, train, count = plain_loop(z, p)
        v = z[..., None] - np.cumsum(train * p.h, axis=-1) + train * p.h
        nearest = min(nearest, np.abs(v - p.T).min())
        spikes[name] += count.sum() * counts
        return y

    for image, entry in np.ndindex(*x.shape[:2]):
        h, c = np.zeros((2, UNITS), np.float32)
        for t in range(x.shape[2]):
            counts = present[image, entry, t]
            i, f, g, o = np.split(x[image, entry, t] @ kernel + h @ recurrent + bias, 4)
            i, f, o = (fire(n, z, counts) for n, z in (("input", i), ("forget", f), ("output", o)))
            new = f * c + i * fire("candidate", g, counts)
            out = o * fire("cell", new, counts)
            h, c = (out, new) if counts else (h, c)
    return {f"each/{name}": count for name, count in spikes.items()}, nearest


@pytest.mark.parametrize(
    "masked", [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=with_masks)]
)
def test_spikes_of_every_gate_counted_by_hand(masked):
    model = network(layers.TimeDistributed(layers.LSTM(UNITS), name="each"), masked=masked)
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    snn, x = fs.convert(model), sequences()
    present = np.any(x != 0, axis=-1) if masked else np.ones(x.shape[:3], bool)
    expected, nearest = lstm_by_hand(snn.get_layer("each"), x, present)
    assert nearest > 3e-6  # further than rounding
    result = fs.profile(snn, x, batch_size=2)
    assert spikes_of(result) == expected
    assert {site.inputs.count for site in result.layers} == {present.sum() * UNITS}
    assert {site.neurons for site in result.layers} == {OUTER * UNITS}
    with record_spikes() as records:
        snn(x)
    assert sum(numpy_of(r.spikes).sum() for r in records) == result.total_spikes
    compared = fs.compare(model, snn, x, batch_size=2)
    assert sorted(site.name for site in compared.sites) == sorted(expected)
    if masked:
        with pytest.raises(fs.ConversionError, match="masked steps"):
            fs.simulate(snn, x)


FORMS = {
    "both ways": lambda: layers.Bidirectional(layers.SimpleRNN(2), name="inner"),
    "sequences": lambda: layers.GRU(3, return_sequences=True, go_backwards=True, name="inner"),
    "stack": lambda: layers.RNN(
        layers.StackedRNNCells([layers.SimpleRNNCell(3), layers.GRUCell(2)]), name="inner"
    ),
    "convolution": lambda: layers.ConvLSTM1D(2, 2, name="inner"),
    "nested": lambda: layers.TimeDistributed(layers.SimpleRNN(2), name="inner"),
}  # fmt: skip
SHAPES = {"convolution": (OUTER, 2, 4, 2), "nested": (OUTER, 3, 2, FEATURES)}


def each_by_itself(layer, x):
    return ops.stack([layer(x[:, i]) for i in range(OUTER)], axis=1)


LONG = ("both ways", "stack", "convolution", "nested")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in FORMS]
)
def test_as_the_layer_applied_to_each_outer_step_by_itself(name):
    shape = SHAPES.get(name, (OUTER, 3, FEATURES))
    x = sequences(shape=shape)
    inner, ends = FORMS[name](), (layers.Flatten(), layers.Dense(3, name="head"))
    shared = network(lambda x: each_by_itself(inner, x), *ends, shape=shape)
    ends = (layers.Flatten(), layers.Dense(3, name="head"))
    model = network(layers.TimeDistributed(FORMS[name](), name="inner"), *ends, shape=shape)
    model.set_weights(shared.get_weights())
    found = []
    for net in (shared, model):
        snn = fs.convert(net)
        result, report = fs.profile(snn, x, batch_size=2), fs.conversion_report(snn)
        rows = collections.defaultdict(lambda: np.zeros(3, int))
        for site in result.layers:
            rows[site.name] += site.total_spikes, site.neurons, site.synaptic_operations
        neurons = collections.Counter()
        for row in report.rows:
            neurons[row.site] += row.neurons
        assert neurons == {site: row[1] for site, row in rows.items()}
        totals = (
            result.macs, result.digital_macs, result.synaptic_operations, result.latency, result.period, result.depth,
            result.weighted_layers,
        )  # fmt: skip
        found.append((totals, {site: tuple(row) for site, row in rows.items()}))
    assert found[0] == found[1]
    # One row for each gate.
    assert len(rows) == len(result.layers) == len(report.rows)
    assert {site.steps for site in result.layers} == {x.shape[-3 if name == "convolution" else -2]}
    simulated = fs.simulate(snn, x)
    np.testing.assert_allclose(simulated.outputs, numpy_of(snn(x)), atol=1e-5)
    np.testing.assert_allclose(simulated.outputs, numpy_of(fs.convert(shared)(x)), atol=1e-5)
    assert simulated.spikes.sum() == result.total_spikes
    assert (simulated.latency, simulated.period) == (result.latency, result.period)


def test_each_outer_step_takes_its_sequence_when_it_is_there():
    """Behind a layer over the outer steps, they come one after the other; each has neurons that work for it alone."""
    snn = fs.convert(
        network(
            layers.ConvLSTM1D(2, 1, return_sequences=True, name="first"),
            layers.TimeDistributed(layers.SimpleRNN(2), name="each"),
        )
    )
    x = sequences()
    result, profiled = fs.simulate(snn, x), fs.profile(snn, x)
    np.testing.assert_allclose(result.outputs, numpy_of(snn(x)), atol=1e-5)
    windows = {(0,): [], (1,): []}
    for call, site in zip(trace(snn).sites, result.sites, strict=True):
        if site.name == "each/state":
            windows[call.sequence.entry].append(site.window)
    first, second = (np.sort(taken) for taken in windows.values())
    for taken in (first, second):
        assert list(taken) == list(range(taken[0], taken[0] + STEPS))
    assert second[0] > first[0]
    assert (result.latency, result.period) == (profiled.latency, profiled.period)


@with_masks
def test_masks_go_through_time_distributed_layers():
    x = sequences()
    snn = fs.convert(
        network(
            layers.TimeDistributed(layers.GRU(3, return_sequences=True), name="first"),
            layers.TimeDistributed(layers.Bidirectional(layers.SimpleRNN(2)), name="second"),
            masked=True,
        )
    )
    with record_spikes() as records:
        expected = numpy_of(snn(x))
    result = fs.profile(snn, x)
    assert result.total_spikes == sum(numpy_of(r.spikes).sum() for r in records)
    present = np.any(x != 0, axis=-1).sum()
    assert {OUTER * site.inputs.count // site.neurons for site in result.layers} == {present}
    outputs = trace(snn).run(x)
    np.testing.assert_allclose(numpy_of(outputs), expected, atol=1e-5)
    # Keras hands the mask on, though the steps that it is for are gone; JAX makes something of it.
    each = layers.TimeDistributed(layers.GRU(2), name="each")
    snn = fs.convert(network(each, layers.GRU(2, name="gru"), masked=True))
    with pytest.raises(fs.ConversionError, match="'gru' gets a mask of the shape"):
        fs.profile(snn, x)
    # A sequential model looks them up while it runs.
    parts = [keras.Input(SHAPE), layers.Masking()]
    snn = fs.convert(keras.Sequential([*parts, layers.TimeDistributed(layers.SimpleRNN(2))]))
    counts = {site.inputs.count for site in fs.profile(snn, x).layers}
    assert counts == {present * 2}
    each = layers.TimeDistributed(layers.SimpleRNN(2))
    snn = fs.convert(keras.Sequential([*parts, each, layers.SimpleRNN(2)]))
    with pytest.raises(ValueError, match="takes away the steps"):
        trace(snn).run(x)


def test_what_cannot_be_unrolled_is_refused_by_name():
    x = sequences()
    for options, message in (
        ({"stateful": True, "name": "gru"}, "'each/gru' is stateful"),
        ({"dtype": "mixed_bfloat16", "name": "gru"}, "'each/gru' computes in bfloat16"),
    ):
        inputs = keras.Input(SHAPE, batch_size=len(x))
        outputs = layers.TimeDistributed(layers.GRU(2, **options), name="each")(inputs)
        snn = fs.convert(keras.Model(inputs, outputs))
        for tool in (fs.profile, fs.simulate):
            with pytest.raises(fs.ConversionError, match=message):
                tool(snn, x)


def test_reports_with_a_number_of_outer_steps_that_is_open():
    each = layers.TimeDistributed(layers.GRU(2), name="each")
    snn = fs.convert(network(each, shape=(None, STEPS, FEATURES)))
    if (
        keras.backend.backend() == "tensorflow"
    ):  # Keras' loop needs the number on JAX, and runs 83 times on PyTorch
        rows = fs.conversion_report(snn).rows
        assert [(row.shape, row.neurons) for row in rows] == [((None, 2), None)] * 3
    result = fs.profile(snn, sequences())  # of these sequences
    assert {site.neurons for site in result.layers} == {OUTER * 2}


def test_a_simple_network_needs_no_multiplier():
    each = layers.TimeDistributed(layers.SimpleRNN(3), name="each")
    model = network(each, layers.Flatten(), layers.Dense(2))
    snn = fs.convert(model, digital="none", input_bits=8, input_range=(-4, 4))
    x = sequences()
    result, profiled = fs.simulate(snn, x), fs.profile(snn, x, multiplier=False)
    np.testing.assert_allclose(result.outputs, numpy_of(snn(x)), atol=1e-5)
    assert result.spikes.sum() == profiled.total_spikes and profiled.digital_macs == 0


def test_they_are_verified_converted_and_saved(tmp_path):
    x = sequences(5)
    layer = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(3)), name="each")
    model = network(layer, layers.Flatten(), layers.Dense(2), shape=x.shape[1:])
    fs.verify(model, x)
    snn = fs.convert(model)
    assert {row.site for row in fs.conversion_report(snn).rows} == {
        f"each/{way}/{gate}"
        for way in ("forward", "backward")
        for gate in ("input", "forget", "candidate", "output", "cell")
    }
    with record_spikes() as records:
        outputs = numpy_of(snn(x))
    assert len(records) == 2 * STEPS * 10
    np.testing.assert_allclose(numpy_of(snn(x)), outputs, atol=1e-6)
    # As the layer itself does, sequence by sequence.
    alone = fs.convert(network(layers.Bidirectional(layers.LSTM(3)), shape=SHAPE[1:]))
    alone.set_weights(snn.get_weights()[: len(alone.get_weights())])
    expected = np.concatenate([numpy_of(alone(x[:, i])) for i in range(2)], axis=1)
    dense = snn.layers[-1]
    np.testing.assert_allclose(numpy_of(dense(expected)), outputs, atol=1e-5)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_allclose(numpy_of(loaded(x)), outputs, atol=1e-6)
