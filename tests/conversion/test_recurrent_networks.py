"""Recurrent networks through convert, verify, reports, profile, compare and simulate."""

import keras
import numpy as np
import pytest
from conftest import with_masks
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.conversion import choosing
from fs_neurons.layers import RecurrentFS, record_spikes
from fs_neurons.network import trace

STEPS, FEATURES = 4, 3


def sequences(count=5, shape=(STEPS, FEATURES)):
    x = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    x[0, 2:] = 0  # masked where there is a mask
    x[1, :1] = 0
    return x


def network(*parts, masked=False, shape=(STEPS, FEATURES), batch=None):
    first = keras.Input(shape, batch_size=batch)
    x = layers.Masking()(first) if masked else first
    for part in parts:
        x = part(x)
    return keras.Model(first, x)


def numpy_of(tensors):
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(tensors)]


def double_tanh(x):
    return ops.tanh(2 * x)


FORMS = {
    "simple": lambda: layers.SimpleRNN(3, dropout=0.2),
    "lstm": lambda: layers.LSTM(3, return_sequences=True, return_state=True, name="lstm"),
    "no bias": lambda: layers.LSTM(3, use_bias=False, unroll=True, recurrent_dropout=0.3),
    "gru": lambda: layers.GRU(3, go_backwards=True, return_sequences=True, dropout=0.2),
    "reset before": lambda: layers.GRU(3, reset_after=False, return_state=True),
    "both ways": lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
    "two layers": lambda: layers.Bidirectional(
        layers.GRU(2, return_state=True), merge_mode=None,
        backward_layer=layers.GRU(2, return_state=True, go_backwards=True, activation="relu"),
    ),
    "cell": lambda: layers.RNN(layers.LSTMCell(3, activation=double_tanh), return_sequences=True),
    "stack": lambda: layers.RNN(
        layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)]), return_state=True
    ),
    "stateful": lambda: layers.LSTM(3, stateful=True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:fitted a set of 12 steps to double_tanh")
@pytest.mark.parametrize(
    ("name", "masked"),
    [
        *((name, True) for name in FORMS),
        *((name, False) for name in ("lstm", "both ways", "stack")),
    ],
)
def test_every_form_is_verified_converted_and_saved(name, masked, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "FIT_EFFORT", 20_000)
    x = sequences()
    model = network(FORMS[name](), masked=masked, batch=5 if name == "stateful" else None)
    weights = model.get_weights()
    if name == "stateful":
        model(x)
    fs.verify(model, x)
    if name == "stateful":  # once more, as what it remembers has changed
        keras.tree.map_structure(lambda layer: layer.reset_state(), model.layers[-1])
    snn = fs.convert(model, unsupported="fit") if name == "cell" else fs.convert(model)
    kept = zip(weights, model.get_weights(), strict=True)
    assert name == "stateful" or all(np.array_equal(a, b) for a, b in kept)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    outputs = numpy_of(snn(x))
    for a, b, c in zip(outputs, numpy_of(loaded(x)), numpy_of(model(x)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert a.shape == c.shape and np.abs(a - c).max() < 0.2
    report = fs.conversion_report(snn)
    assert all(row.is_converted for row in report.rows) and str(report) == str(
        fs.conversion_report(loaded)
    )


def test_convolutional_cells_are_converted(tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 3, 6, 5, 2)).astype(np.float32)
    for layer, data in (
        (layers.ConvLSTM2D(3, (2, 3), padding="same", return_sequences=True, return_state=True), x),
        (layers.ConvLSTM1D(2, 2, strides=2), x[..., 0]),
    ):
        model = network(layer, shape=data.shape[1:])
        fs.verify(model, data)
        snn = fs.convert(model)
        snn.save(tmp_path / "snn.keras")
        loaded = keras.models.load_model(tmp_path / "snn.keras")
        for a, b in zip(numpy_of(snn(data)), numpy_of(loaded(data)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert [tuple(y.shape) for y in snn.outputs] == [tuple(y.shape) for y in model.outputs]


def test_initial_states_are_inputs():
    x, h, c = keras.Input((STEPS, FEATURES)), keras.Input((3,)), keras.Input((3,))
    model = keras.Model([x, h, c], layers.LSTM(3)(x, initial_state=[h, c]))
    fs.verify(model)
    snn = fs.convert(model)
    inputs = [sequences(2), np.ones((2, 3), np.float32), -np.ones((2, 3), np.float32)]
    assert fs.simulate(snn, inputs).outputs == pytest.approx(numpy_of(snn(inputs))[0], abs=1e-6)


def test_gates_are_sites_with_names():
    model = network(
        layers.LSTM(3, return_sequences=True, name="lstm"),
        layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both"),
        layers.RNN(
            layers.StackedRNNCells([layers.SimpleRNNCell(2), layers.GRUCell(2)]), name="stack"
        ),
    )
    names = [site.name for site in fs.find_sites(model)]
    assert names == [
        *(f"lstm/{gate}" for gate in ("input", "forget", "candidate", "output", "cell")),
        *(f"both/{way}/{gate}" for way in ("forward", "backward") for gate in ("update", "reset", "candidate")),
        "stack/cell_0/state",
        *(f"stack/cell_1/{gate}" for gate in ("update", "reset", "candidate")),
    ]  # fmt: skip
    snn = fs.convert(model)
    rows = fs.conversion_report(snn).rows
    assert [row.site for row in rows] == names and [row.neurons for row in rows] == [3] * 5 + [
        2
    ] * 10
    assert rows[0].activation == "sigmoid" and rows[2].activation == "tanh"
    # Some stay, by activation, by layer or by gate.
    part = fs.convert(model, keep=("tanh",), keep_layers=["both", "lstm/forget"])
    kept = {row.site for row in fs.conversion_report(part).rows if not row.is_converted}
    tanh = {site.name for site in fs.find_sites(model) if site.activation == "tanh"}
    assert kept == tanh | {"lstm/forget"} | {name for name in names if name.startswith("both")}


def test_what_is_not_a_cell_of_keras_is_refused_by_name():
    class Mine(layers.LSTMCell):
        def call(self, inputs, states, training=False):
            return super().call(inputs, states, training=training)

    model = network(layers.RNN(Mine(3, name="mine")), layers.Dense(2, activation="relu"))
    with pytest.raises(fs.ConversionError, match="Mine: a call\\(\\) of its own"):
        fs.convert(model)
    snn = fs.convert(model, unsupported="keep")
    assert any(row.activation == "Mine" for row in fs.conversion_report(snn).rows)
    with pytest.raises(fs.ConversionError, match="No parameter set for exponential"):
        fs.convert(network(layers.GRU(3, activation="exponential")))


ANALYSED = {
    "two layers": lambda: (layers.LSTM(3, return_sequences=True), layers.GRU(2)),
    "both ways": lambda: (layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True)), layers.Flatten()),
    "stack": lambda: (layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)])),),
    "backwards": lambda: (
        layers.GRU(3, reset_after=False, go_backwards=True, return_sequences=True), layers.Flatten(),
    ),
}  # fmt: skip


# A Flatten behind masked steps is what some of them have.
@pytest.mark.filterwarnings("ignore:Layer 'flatten:UserWarning")
@with_masks
@pytest.mark.parametrize("name", ANALYSED)
def test_profile_counts_every_gate_at_every_step_that_is_not_masked(name):
    x = sequences()
    snn = fs.convert(network(*ANALYSED[name](), layers.Dense(3), masked=True))
    with record_spikes() as records:
        scores = numpy_of(snn(x))[0]
    spikes, times = {}, {}
    for record in records:
        key = id(record.layer)
        spikes[key] = spikes.get(key, 0) + int(numpy_of(record.spikes)[0].sum())
        times[key] = times.get(key, 0) + 1
    assert set(times.values()) == {STEPS}
    result = fs.profile(snn, x, batch_size=2)
    assert sorted(site.total_spikes for site in result.layers) == sorted(spikes.values())
    assert sorted(site.name for site in result.layers) == sorted(
        row.site for row in fs.conversion_report(snn).rows
    )
    present = 17  # of five sequences of four steps
    assert {site.inputs.count // site.neurons for site in result.layers} == {present}
    assert {site.inputs.histogram.sum() // site.neurons for site in result.layers} == {present}
    assert result.spikes_per_step == pytest.approx(
        result.total_spikes / sum(site.neurons * present for site in result.layers)
    )
    assert "per gate neuron and step" in str(result)
    labels = scores.argmax(axis=1)
    counted = evaluate(snn, x, labels, batch_size=2)
    assert counted.spikes == result.total_spikes and counted.accuracy == 1


@pytest.mark.parametrize("name", ANALYSED)
def test_simulated_spikes_are_those_of_the_network(name):
    x = sequences(3)
    snn = fs.convert(network(*ANALYSED[name](), layers.Dense(3)))
    result, profiled = fs.simulate(snn, x, raster=True), fs.profile(snn, x)
    np.testing.assert_allclose(result.outputs, numpy_of(snn(x))[0], atol=1e-5)
    assert result.spikes.sum() == profiled.total_spikes
    assert {site.inputs.count for site in profiled.layers if site.shape == (3,)} == {3 * STEPS * 3}
    assert (result.latency, result.period) == (profiled.latency, profiled.period)
    # No neuron works for two sequences, or two steps of one, at once; that of a simple network collects for the next
    # step while it fires.
    for gate in {site.name for site in result.sites}:
        windows = sorted(
            image * result.windows_between_images + site.window
            for site in result.sites if site.name == gate for image in range(3)
        )  # fmt: skip
        assert (np.diff(windows) >= (1 if gate.endswith("state") else 2)).all()


def test_layers_work_in_a_pipeline_over_steps():
    snn = fs.convert(network(*(layers.SimpleRNN(2, return_sequences=True) for _ in range(3))))
    result = fs.simulate(snn, sequences(2))
    # Step s of layer l fires in window s + l, counted from 0.
    windows = {name: [] for name in (row.site for row in fs.conversion_report(snn).rows)}
    for site in result.sites:
        windows[site.name].append(site.window)
    assert list(windows.values()) == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert result.latency == 7 * result.K and result.period == 5 * result.K


@with_masks
def test_masks_and_states_have_no_place_in_time():
    snn = fs.convert(network(layers.GRU(2), masked=True))
    with pytest.raises(fs.ConversionError, match="masked steps"):
        fs.simulate(snn, sequences())
    snn = fs.convert(network(layers.GRU(2, stateful=True), batch=5))
    with pytest.raises(fs.ConversionError, match="stateful"):
        fs.profile(snn, sequences())


@with_masks
@pytest.mark.parametrize("masked", [False, True])
def test_compare_has_one_row_for_each_gate(masked):
    x = sequences()
    model = network(layers.GRU(3), layers.Dense(3), masked=masked)
    snn = fs.convert(model)
    result = fs.compare(model, snn, x, batch_size=2)
    rows = {site.name.rpartition("/")[2]: site for site in result.sites}
    assert sorted(rows) == ["candidate", "reset", "update"]
    expected = numpy_of(model(x))[0] - numpy_of(snn(x))[0]
    deviation = numpy_of(model(x))[0].std()
    assert result.output_error == pytest.approx(np.sqrt((expected**2).mean()) / deviation, rel=1e-4)
    assert all(0 < site.error < 0.01 and site.output_error > 0 for site in result.sites)
    # One gate alone: the error of the outputs is that of a network with the others kept.
    names = [site.name for site in fs.find_sites(model)]
    alone = fs.convert(model, keep_layers=names[1:])
    expected = numpy_of(model(x))[0] - numpy_of(alone(x))[0]
    assert names[0].endswith("update") and rows["update"].output_error == pytest.approx(
        np.sqrt((expected**2).mean()) / deviation, rel=1e-3
    )


def test_multiply_accumulates_of_the_unrolled_layer():
    snn = fs.convert(network(layers.LSTM(5, name="lstm")))
    result = fs.profile(snn, sequences())
    weights = 4 * 5 * (FEATURES + 5)
    products = 3 * 5
    assert result.macs == STEPS * (weights + products) and not result.left_out
    calls = {call.name for call in trace(snn).calls if call.is_site}
    assert calls == {f"lstm/{gate}" for gate in ("input", "forget", "candidate", "output", "cell")}


def test_spikes_of_a_simple_network_reach_the_weights_of_the_next_step():
    snn = fs.convert(
        network(layers.SimpleRNN(3, return_sequences=True), layers.GlobalAveragePooling1D())
    )
    (site,) = fs.profile(snn, sequences()).layers
    # To the three neurons of the next step and to the average; at the last step to the average alone.
    assert site.fan_out == (1, 4)


def test_a_converted_network_trains_further():
    model = network(layers.LSTM(3, dropout=0.5), layers.Dense(2))
    snn = fs.convert(model)
    snn.compile("adam", "mse", run_eagerly=True)
    before = snn.get_weights()
    snn.fit(sequences(), np.zeros((5, 2)), epochs=1, verbose=0)
    assert all(np.isfinite(w).all() for w in snn.get_weights())
    assert any(not np.array_equal(a, b) for a, b in zip(before, snn.get_weights(), strict=True))
    assert isinstance(snn.layers[1], RecurrentFS)


@with_masks
def test_a_mask_goes_through_several_layers():
    x = sequences()
    snn = fs.convert(
        keras.Sequential(
            [
                keras.Input((STEPS, FEATURES)),
                layers.Masking(),
                layers.Bidirectional(layers.GRU(3, return_sequences=True)),
                layers.LSTM(2, return_sequences=True),
                layers.GlobalAveragePooling1D(),
            ]
        )
    )
    with record_spikes() as records:
        expected = numpy_of(snn(x))[0]
    np.testing.assert_allclose(numpy_of(trace(snn).run(x))[0], expected, atol=1e-5)
    spikes = sum(int(numpy_of(record.spikes)[0].sum()) for record in records)
    result = fs.profile(snn, x)
    assert result.total_spikes == spikes
    assert {site.inputs.count // site.neurons for site in result.layers} == {17}


def test_only_a_simple_network_needs_no_multiplier():
    options = {"digital": "none", "input_bits": 8, "input_range": (-4, 4)}
    for layer in (layers.LSTM, layers.GRU):
        model = network(layer(3, name="layer"), layers.Dense(2))
        with pytest.raises(
            fs.ConversionError, match=r"'layer/multiply\S*' multiplies a gate with a state"
        ):
            fs.convert(model, **options)
    x = sequences(3)
    snn = fs.convert(network(layers.SimpleRNN(3), layers.Dense(2)), **options)
    result, profiled = fs.simulate(snn, x), fs.profile(snn, x)
    np.testing.assert_allclose(result.outputs, numpy_of(snn(x))[0], atol=1e-5)
    assert result.spikes.sum() == profiled.total_spikes
    model = network(layers.LSTM(3), masked=True)
    with pytest.raises(fs.ConversionError, match="masks steps by their exact value"):
        fs.convert(model, input_bits=8, input_range=(-4, 4))
