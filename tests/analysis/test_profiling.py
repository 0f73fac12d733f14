"""`profile` against plain numpy, and fan-outs against networks whose weights are all one."""

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.analysis import connectivity
from fs_neurons.analysis.profiling import EnergyModel
from fs_neurons.network import graph


def small_network(seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(4, 2, activation="silu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(5, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="small")


@pytest.fixture(scope="module")
def snn():
    return fs.convert(small_network(), relu=fs.relu_parameters(4, 1.5))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(0, 2, (13, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def measured(snn, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fs.profile(snn, images, batch_size=5, histogram_range=(-3, 3))


def gate_inputs(snn, images):
    sites = [layer for layer in snn.layers if isinstance(layer, fs.FSActivation)]
    model = keras.Model(snn.inputs[0], [layer.input for layer in sites])
    return [(layer, ops.convert_to_numpy(x)) for layer, x in zip(sites, model(images), strict=True)]


def test_counts_and_statistics_equal_numpy(snn, images, measured):
    for (layer, x), site in zip(gate_inputs(snn, images), measured.layers, strict=True):
        y, _, count = plain_loop(x, layer.parameters)
        low, high = np.float32(layer.parameters.domain)
        top, _, _ = plain_loop(np.array([high]), layer.parameters)
        assert site.name == layer.name
        assert site.shape == x.shape[1:]
        assert site.total_spikes == count.sum()
        assert site.silent == (count == 0).sum()
        assert (site.below, site.above) == ((x < low).sum(), (x >= high).sum())
        assert site.saturated == (y >= top).sum()
        assert site.inputs.count == x.size
        assert site.inputs.mean == pytest.approx(x.mean(dtype=np.float64), abs=1e-6)
        assert site.inputs.variance == pytest.approx(x.var(dtype=np.float64), rel=1e-5)
        # A GPU may sum in another order here than it does layer by layer.
        ends = (site.inputs.minimum, site.inputs.maximum)
        assert ends == pytest.approx((x.min(), x.max()), rel=1e-6)
        inside = np.histogram(x, bins=400, range=(-3, 3))[0]
        # A value at the edge of two bins may be in either.
        assert np.abs(np.cumsum(site.inputs.histogram[1:-1]) - np.cumsum(inside)).max() <= 2
        assert site.inputs.histogram.sum() == x.size


def test_totals_are_sums_and_both_averages_are_as_defined(snn, images, measured):
    inputs = [x for _, x in gate_inputs(snn, images)]
    everything = np.concatenate([x.ravel() for x in inputs]).astype(np.float64)
    assert measured.pooled_inputs.mean == pytest.approx(everything.mean(), abs=1e-6)
    assert measured.pooled_inputs.variance == pytest.approx(everything.var(), rel=1e-5)
    mean, variance = measured.site_average
    assert mean == pytest.approx(np.mean([x.mean() for x in inputs]), abs=1e-6)
    assert variance == pytest.approx(np.mean([x.std() for x in inputs]) ** 2, rel=1e-5)
    assert measured.total_spikes == sum(site.total_spikes for site in measured.layers)
    assert measured.neurons == sum(x[0].size for x in inputs)


def test_counts_are_those_of_evaluation_hooks(snn, images, measured):
    with fs.record_spikes() as records:
        snn(images)
    counts = [int(ops.convert_to_numpy(record.spikes).sum()) for record in records]
    assert [site.total_spikes for site in measured.layers] == counts


def test_batches_and_data_sets_give_the_same(snn, images, measured):
    tf = pytest.importorskip("tensorflow", reason="its data sets are what is tested")
    labels = np.zeros(len(images))
    streamed = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = fs.profile(snn, streamed, histogram_range=(-3, 3))
    assert other.images == measured.images == len(images)
    for a, b in zip(other.layers, measured.layers, strict=True):
        exact = ("total_spikes", "silent", "below", "above", "saturated", "synaptic_operations")
        assert [getattr(a, name) for name in exact] == [getattr(b, name) for name in exact]
        assert (a.inputs.histogram == b.inputs.histogram).all()
        assert a.inputs.mean == pytest.approx(b.inputs.mean, abs=1e-7)


def test_synaptic_operations_are_spikes_times_fan_out(snn, images, measured):
    targets = targets_by_ones(snn)
    for (layer, x), site, fan in zip(
        gate_inputs(snn, images), measured.layers, targets, strict=True
    ):
        _, _, count = plain_loop(x, layer.parameters)
        assert site.synaptic_operations == (count * fan).sum()


def test_energy_is_what_the_model_of_energy_says(measured):
    # 3x3x3x18 + ... by hand: valid taps of the first convolution, then (2, 2), then dense layers.
    taps = sum(min(2 * i + 3, 6) - 2 * i for i in range(3)) ** 2
    macs = taps * 2 * 3 + 4 * (2 * 2 * 3) * 4 + 16 * 5 + 5 * 3
    assert measured.macs == macs
    assert measured.digital_macs == taps * 2 * 3  # those on the image
    energy = measured.energy_by(EnergyModel(mac=2.0, ac=0.5, source="a test"))
    assert energy.ann == 2 * macs
    assert energy.snn == 0.5 * measured.synaptic_operations + 2 * measured.digital_macs
    assert energy.ratio == energy.ann / energy.snn


def test_time_is_that_of_the_simulation(snn, images, measured):
    simulation = fs.simulate(snn, images[:1])
    assert measured.latency == simulation.latency == 4 * 16
    assert measured.period == simulation.period == 32
    assert measured.paper_latency == 4 * 16  # four layers with weights


def test_report_is_text_json_rows_and_picture(measured, tmp_path):
    text = str(measured)
    assert "conv2d" in text and f"{measured.neurons:,}" in text
    content = json.loads(measured.to_json())
    assert content["total_spikes"] == measured.total_spikes
    assert len(content["sites"]) == len(measured.rows()) == 3
    assert sum(content["sites"][0]["histogram"]) == measured.layers[0].inputs.count
    measured.plot().savefig(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").stat().st_size > 10_000


def test_inputs_outside_the_domain_are_warned_of(snn, images):
    with pytest.warns(UserWarning, match=r"conv2d.*% outside.*larger alpha"):
        fs.profile(snn, images)


def test_bad_input_is_refused(snn, images):
    broken = images.copy()
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fs.profile(snn, broken)
    with pytest.raises(ValueError, match="nothing to run"):
        fs.profile(snn, images[:0])
    with pytest.raises(ValueError, match="histogram_range"):
        fs.profile(snn, images, histogram_range=(1, 1))
    with pytest.raises(fs.ConversionError, match="convert it first"):
        fs.profile(small_network(), images)


# --- fan-outs -----------------------------------------------------------------------------------


def targets_by_ones(snn):
    """Per site: for each neuron, the connections to the next site or the output, one by one."""
    ones = keras.models.clone_model(snn)
    ones.set_weights(
        [np.ones_like(w) if w.ndim > 1 else np.zeros_like(w) for w in snn.get_weights()]
    )
    sites = [layer for layer in ones.layers if isinstance(layer, fs.FSActivation)]
    ends = [layer.input for layer in sites[1:]] + [ones.outputs[0]]
    result = []
    for site, end in zip(sites, ends, strict=True):
        part = keras.Model(site.output, end)
        shape = tuple(site.output.shape[1:])
        units = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
        reached = ops.convert_to_numpy(part(units)).reshape(len(units), -1)
        result.append(reached.sum(axis=1).round().astype(int).reshape(shape))
    return result


def site_fan_out(snn):
    network = graph.trace(snn)
    (site,) = network.sites
    return connectivity.fan_out(network, site.outputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [layers.Conv2D(3, 3)],
        lambda: [layers.Conv2D(3, 3, padding="same", strides=2)],
        lambda: [layers.Conv2D(3, (3, 2), padding="same", dilation_rate=2)],
        lambda: [layers.Conv2D(4, 3, strides=(2, 1), groups=2)],
        lambda: [layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)],
        lambda: [layers.Conv2DTranspose(3, 3, strides=2, padding="same")],
        lambda: [layers.Conv2DTranspose(2, 2, strides=3)],
        lambda: [layers.ZeroPadding2D(((1, 0), (0, 2))), layers.Conv2D(2, 3, strides=2)],
        lambda: [layers.Cropping2D(1), layers.Conv2D(2, 2)],
        lambda: [layers.UpSampling2D(2), layers.Conv2D(2, 3, strides=2)],
        lambda: [layers.Permute((2, 1, 3)), layers.Conv2D(2, (1, 3))],
        lambda: [layers.Flatten(), layers.Dense(7)],
        lambda: [layers.Reshape((12, 5)), layers.Conv1D(2, 3, padding="causal")],
        lambda: [layers.Dense(7)],
        lambda: [layers.EinsumDense("abcd,de->abce", (5, 6, 3))],
        lambda: [layers.BatchNormalization(), layers.Dropout(0.5), layers.Conv2D(3, 2)],
    ],
)
def test_fan_out_is_the_number_of_connections(make):
    model = keras.Sequential([keras.Input((5, 6, 2)), layers.ReLU(), *make()])
    snn = fs.convert(model)
    fan = site_fan_out(snn)
    scaling = [layer for layer in snn.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in snn.layers:
        if layer not in scaling:
            layer.set_weights(
                [np.ones_like(w) if w.ndim > 1 else np.zeros_like(w) for w in layer.get_weights()]
            )
    part = keras.Sequential(snn.layers[1:])
    units = np.eye(60, dtype=np.float32).reshape(-1, 5, 6, 2)
    gain = 1.001**-0.5 if scaling else 1.0  # of a batch normalisation that has learnt nothing
    reached = ops.convert_to_numpy(part(units)).reshape(60, -1).sum(axis=1) / gain
    assert np.broadcast_to(fan.weighted, (5, 6, 2)).ravel() == pytest.approx(reached, rel=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_average_pooling_adds_once_per_window(padding):
    pool = layers.AveragePooling2D(3, 2, padding)
    snn = fs.convert(keras.Sequential([keras.Input((5, 6, 2)), layers.ReLU(), pool]))
    fan = site_fan_out(snn)
    units = np.eye(60, dtype=np.float32).reshape(-1, 5, 6, 2)
    windows = (ops.convert_to_numpy(pool(units)).reshape(60, -1) > 0).sum(axis=1)
    assert (np.broadcast_to(fan.total, (5, 6, 2)).ravel() == windows).all()
    assert (fan.weighted == 0).all()


def test_branches_add_up():
    x = inputs = keras.Input((4,))
    x = layers.ReLU()(x)
    y = layers.Dense(4)(x)
    z = layers.Concatenate()([layers.Add()([x, y]), x])
    model = keras.Model(inputs, [layers.Dense(6)(z), x])
    fan = site_fan_out(fs.convert(model))
    assert np.broadcast_to(fan.weighted, 4).tolist() == [4 + 6] * 4
    assert np.broadcast_to(fan.total, 4).tolist() == [4 + 1 + 6 + 1] * 4  # an addition, an output


# --- what was wrong -----------------------------------------------------------------------------


def quietly(snn, images, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fs.profile(snn, images, **arguments)


def test_sets_that_differ_in_their_domain_only_are_told_apart():
    wide = fs.relu_parameters(4, 2.0)
    narrow = dataclasses.replace(wide, domain=(-0.5, 0.5))
    assert wide == narrow
    x = np.random.default_rng(0).normal(0, 1, (10, 60)).astype(np.float32)
    for p in (wide, narrow):
        snn = keras.Sequential([keras.Input((60,)), fs.FSActivation(p, activation="relu")])
        (site,) = quietly(snn, x, histogram_range=(-2, 2)).layers
        assert (site.below, site.above) == ((x < p.domain[0]).sum(), (x >= p.domain[1]).sum())


def test_wrapped_layers_and_attention():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4))
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(inputs)
    x = layers.SpectralNormalization(layers.Dense(8, activation="relu"))(x)
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3)(x, x))
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    result = quietly(fs.convert(model), x)
    own = 4 * 6 * 8 * 6 + 2 * 2 * 6 * 6 * 3  # four projections; scores and sums of two heads
    assert result.macs == 6 * 4 * 5 + 6 * 5 * 8 + own
    assert [layer.fan_out for layer in result.layers] == [(8, 8), (3 * 6, 3 * 6)]
    assert result.digital_macs == 6 * 4 * 5 + own - 3 * 6 * 8 * 6
    assert result.left_out == () and result.energy.ratio > 0


def test_what_is_left_out_is_said():
    class Own(layers.Layer):
        def call(self, x):
            return 2 * x

    snn = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), fs.FSReLU(4, 2.0), Own(name="own"), layers.Dense(2)]
    )
    result = quietly(snn, np.ones((2, 4), np.float32))
    assert result.left_out == ("own (Own)",)
    assert result.energy is None and result.energy_by(EnergyModel(1, 1, "")) is None
    assert "left out of operations" in str(result) and "own (Own)" in str(result)
    content = json.loads(result.to_json())
    assert content["left_out"] == ["own (Own)"] and content["ann_energy_joule"] is None


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_spikes_that_pass_through_max_pooling_are_additions(padding):
    keras.utils.set_random_seed(0)
    K, alpha = 4, 2.0
    model = keras.Sequential(
        [
            keras.Input((7, 7, 2)),
            layers.Conv2D(3, 3, activation="relu", name="first"),
            layers.MaxPooling2D(2, padding=padding, name="pool"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, strides=2, name="second"),
        ]
    )
    snn = fs.convert(model, relu=fs.relu_parameters(K, alpha))
    images = np.random.default_rng(0).normal(size=(5, 7, 7, 2)).astype(np.float32)
    result = quietly(snn, images, batch_size=3)
    before = keras.Model(model.inputs[0], model.get_layer("first").output)
    x = ops.convert_to_numpy(layers.MaxPooling2D(2, padding=padding)(before(images)))
    spikes = plain_loop(x, fs.relu_parameters(K, alpha))[2]  # the code of the largest
    # Targets of each place, one output at a time.
    shape = x.shape[1:]
    targets = np.zeros(shape, int)
    rows = range((shape[0] + 2 - 3) // 2 + 1)
    for i in rows:
        for j in rows:
            low, left = max(2 * i - 1, 0), max(2 * j - 1, 0)
            targets[low : 2 * i + 2, left : 2 * j + 2] += 4
    (pool,) = result.pools
    assert pool.name == "pool" and pool.total_spikes == spikes.sum()
    assert pool.synaptic_operations == (spikes * targets).sum()
    assert result.layers[0].synaptic_operations == 0  # a gate adds nothing
    assert result.synaptic_operations == (spikes * targets).sum() / 5
    assert result.digital_macs == result.macs - 3 * targets[..., 0].sum()
    assert result.total_spikes == result.layers[0].total_spikes
    assert f"max-pooling 'pool' hands on {pool.spikes:,.0f} spikes" in str(result)
    assert json.loads(result.to_json())["pools"][0]["total_spikes"] == pool.total_spikes


@pytest.mark.filterwarnings("ignore:left out of the conversion")
def test_augmentation_stays_out_of_a_profile():
    inputs = keras.Input((8, 8, 1))
    x = layers.RandomTranslation(0.4, 0.4, seed=0)(inputs)
    snn = fs.convert(keras.Model(inputs, layers.ReLU()(layers.Conv2D(2, 3)(x))))
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)
    with fs.record_spikes() as records:
        snn(images, training=False)
    counts = int(ops.convert_to_numpy(records[0].spikes).sum())
    assert quietly(snn, images).total_spikes == counts


def test_batches_of_a_keras_data_set(snn, images, measured):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return images[4 * i : 4 * i + 4], np.zeros(len(images[4 * i : 4 * i + 4]))

    assert quietly(snn, Batches()).total_spikes == measured.total_spikes


@pytest.mark.parametrize("run", [fs.profile, fs.simulate])
def test_arrays_of_another_shape_are_refused_by_name(snn, images, run):
    with pytest.raises(
        ValueError, match=r"input '.*' of model 'small'.*\(images, 6, 6, 2\), got \(13, 6, 6\)"
    ):
        run(snn, images[..., 0])
    with pytest.raises(ValueError, match=r"\(images, 6, 6, 2\), got \(13, 6, 5, 2\)"):
        run(snn, images[:, :, :5])
    with pytest.raises(ValueError, match=r"batch 1: .* got \(6, 6, 2\)"):
        run(snn, [images, images[0]])
    with pytest.raises(TypeError, match="images must be an array of shape"):
        run(snn, 3)
    with pytest.raises(TypeError, match="batch 0 must be"):
        run(snn, ["a"])


def test_open_sizes_are_those_of_the_images():
    keras.utils.set_random_seed(0)

    def network(size):
        inputs = keras.Input((size, size, 3))
        x = layers.EinsumDense("abcd,de->abce", (size, size, 4), activation="relu")(inputs)
        x = layers.Conv2D(2, 3, strides=2, padding="same", activation="relu")(x)
        return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))

    images = np.random.default_rng(0).normal(size=(3, 7, 7, 3)).astype(np.float32)
    fixed, free = network(7), network(None)
    free.set_weights(fixed.get_weights())
    one, other = (quietly(fs.convert(model), images) for model in (fixed, free))
    assert other.total_spikes == one.total_spikes
    assert (other.macs, other.synaptic_operations) == (one.macs, one.synaptic_operations)
    assert fs.simulate(fs.convert(free), images).spikes.sum() == one.total_spikes


def test_advice_is_for_the_activation_of_the_site(images):
    x = inputs = keras.Input((6, 6, 2))
    for activation in ("relu", "silu", "sigmoid"):
        x = layers.Activation(activation, name=f"the_{activation}")(20 * x)
    model = keras.Model(inputs, layers.ReLU(0.1)(x))
    with pytest.warns(UserWarning) as caught:
        fs.profile(fs.convert(model, relu=fs.relu_parameters(4, 8.0)), images)
    (message,) = [str(w.message) for w in caught if "outside" in str(w.message)]
    assert "3 of 4 sites" in message  # a ReLU that saturates is no worse outside
    assert "calibration_data=..." in message
    assert "relu=fs.relu_parameters(K, alpha) with a larger alpha" in message
    assert "silu=fs.fit('silu', K=16, domain=(0, " in message
    assert "sigmoid=fs.fit('sigmoid', K=12, domain=(" in message
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Rescaling(20), layers.Activation("silu")]
    )
    with pytest.warns(UserWarning) as caught:
        fs.profile(fs.convert(model), images)
    assert not [w for w in caught if "relu" in str(w.message)]
