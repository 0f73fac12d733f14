"""Each tool on each kind of network that is built in another way: the numbers of a plain one with the same weights."""

import functools

import keras
import numpy as np
import pytest
from conftest import convolves_channels_first, on_gpu, plain_loop
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.calibration import calibrator
from fs_neurons.calibration.store import Store
from fs_neurons.conversion import fold

IMAGES = np.random.default_rng(0).normal(size=(40, 7, 6, 2)).astype(np.float32)
RELU = fs.relu_parameters(6, 4.0)
# Same numbers, whatever the format, sizes, type, wrappers and models inside models; see `network`.
KINDS = {
    "channels first": {"data_format": "channels_first"},
    "open sizes": {"size": (None, None)},
    "float64": {"dtype": "float64"},
    "wrapped": {"wrapped": True},
    "nested": {"nested": True},
}
MIXED = ("mixed_float16", "mixed_bfloat16")


def network(data_format="channels_last", size=(7, 6), dtype="float32", wrapped=False, nested=False):
    """Three sites: behind batch normalization, in a convolution, and in a dense layer for each position."""
    keras.utils.set_random_seed(0)
    first = data_format == "channels_first"
    shape = (2, *size) if first else (*size, 2)
    options = {"data_format": data_format, "dtype": dtype}

    def spectral(layer):
        return layers.SpectralNormalization(layer, dtype=dtype) if wrapped else layer

    def stem(x):
        x = spectral(layers.Conv2D(3, 3, padding="same", use_bias=False, **options))(x)
        return layers.ReLU(dtype=dtype)(
            layers.BatchNormalization(axis=1 if first else -1, dtype=dtype)(x)
        )

    def body(x):
        x = inside(stem, shape, "stem")(x) if nested else stem(x)
        return spectral(layers.Conv2D(4, 3, strides=2, activation="silu", **options))(x)

    inputs = keras.Input(shape)
    x = inside(body, shape, "body")(inputs) if nested else body(inputs)
    x = layers.Permute((2, 3, 1), dtype=dtype)(x) if first else x
    x = layers.Reshape((-1, 4), dtype=dtype)(x)
    dense = layers.Dense(5, activation="relu", dtype=dtype)
    x = layers.TimeDistributed(dense, dtype=dtype)(x) if wrapped else dense(x)
    x = layers.GlobalAveragePooling1D(dtype=dtype)(x)
    model = keras.Model(inputs, layers.Dense(3, dtype=dtype)(x))
    random = np.random.default_rng(1)
    for weight in model.weights:
        if "vector_u" not in weight.path:  # of the wrapper
            positive = weight.path.endswith(("gamma", "moving_variance"))
            values = random.uniform(0.5, 1.5, weight.shape) if positive else random.normal(
                0, 0.4, weight.shape
            )  # fmt: skip
            weight.assign(values)
    return model


def inside(part, shape, name):
    inputs = keras.Input(shape)
    return keras.Model(inputs, part(inputs), name=name)


def images_for(model):
    return np.moveaxis(IMAGES, -1, 1) if model.inputs[0].shape[1] == 2 else IMAGES


def run(model):
    return ops.convert_to_numpy(ops.cast(model(images_for(model), training=False), "float32"))


@functools.cache
def pair(kind=None):
    """The original and its conversion."""
    if kind == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told so before anything else")
    if kind == "channels first" and not convolves_channels_first():
        pytest.skip("no convolutions with channels first here")
    model = network(**KINDS[kind]) if kind in KINDS else network(dtype=kind or "float32")
    return model, fs.convert(model, relu=RELU)


@functools.cache
def calibrated(kind=None, **settings):
    model, _ = pair(kind)
    return fs.convert(model, calibration_data=images_for(model), **settings)


def profiled(kind=None, snn=None, **arguments):
    model, converted = pair(kind)
    return fs.profile(snn or converted, images_for(model), **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_are_the_same(kind):
    expected = run(pair()[0])
    assert expected.std(axis=0).min() > 0.01
    assert run(pair(kind)[0]) == pytest.approx(expected, abs=1e-5)


# --- profile ------------------------------------------------------------------------------------


def counted(profile):
    return (
        profile.neurons, profile.macs, profile.digital_macs, profile.latency, profile.left_out,
        [(x.total_spikes, x.silent, x.synaptic_operations, x.below, x.above) for x in profile.layers],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:gate inputs outside")
@pytest.mark.parametrize("kind", KINDS)
def test_profile(kind):
    assert counted(profiled(kind)) == counted(profiled())


@pytest.mark.filterwarnings("ignore:gate inputs outside")
def test_profile_in_parts():
    assert counted(profiled(batch_size=7)) == counted(profiled())


def records_of(snn):
    """Of each site, what a plain loop gives for the gate inputs that it meets: response, train, count."""

    def keep(x, parameters):
        y, _ = fs.neuron.response_and_count(ops.cast(x, "float32"), parameters)
        return y, x

    with fs.record_spikes(keep) as records:
        snn(images_for(snn), training=False)
    return [
        plain_loop(ops.convert_to_numpy(ops.cast(r.spikes, "float32")), r.layer.parameters)
        for r in records
    ]


@pytest.mark.skipif(on_gpu(), reason="sums of half precision in another order")
@pytest.mark.filterwarnings("ignore:gate inputs outside")
@pytest.mark.parametrize("policy", MIXED)
def test_profile_in_mixed_precision(policy):
    expected = [int(count.sum()) for _, _, count in records_of(pair(policy)[1])]
    # A compiled network rounds less often than one that runs layer by layer.
    given = [layer.total_spikes for layer in profiled(policy).layers]
    assert given == pytest.approx(expected, rel=0.01)


# --- compare ------------------------------------------------------------------------------------

FIGURES = (
    "error",
    "cosine",
    "clipped_share",
    "clipped",
    "resolution",
    "accumulated",
    "output_error",
)


def compared(kind=None, snn=None, **arguments):
    model, converted = pair(kind)
    return fs.compare(model, snn or converted, images_for(model), **arguments)


def figures(comparison):
    sites = [[getattr(site, name) for name in FIGURES] for site in comparison.sites]
    return np.array([*sites, [comparison.output_error] * len(FIGURES)])


@pytest.mark.parametrize("kind", KINDS)
def test_compare(kind):
    assert figures(compared(kind)) == pytest.approx(figures(compared()), rel=1e-3, abs=1e-6)


def test_compare_in_parts():
    assert figures(compared(batch_size=7)) == pytest.approx(figures(compared()), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("policy", MIXED)
def test_compare_in_mixed_precision(policy):
    model, snn = pair(policy)
    sites = [layer.output for layer in snn.layers if isinstance(layer, fs.FSActivation)]
    kinds = (layers.Conv2D, layers.ReLU, layers.Dense)
    # The first convolution has no activation, the last layer has none either.
    exact = [layer.output for layer in model.layers if isinstance(layer, kinds)][1:-1]
    given, wanted = (
        [ops.convert_to_numpy(ops.cast(y, "float32")) for y in part(IMAGES)]
        for part in (keras.Model(snn.inputs[0], sites), keras.Model(model.inputs[0], exact))
    )
    errors = [np.square(a - b).mean() for a, b in zip(given, wanted, strict=True)]
    assert [site.error for site in compared(policy).sites] == pytest.approx(errors, rel=2e-2)


# --- calibrate ----------------------------------------------------------------------------------


def error(snn, kind=None):
    return float(np.square(run(snn) - run(pair(kind)[0])).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_calibrate(kind):
    how = {"steps": 5, "correction": "none"}
    assert run(calibrated(kind, **how)) == pytest.approx(run(calibrated(**how)), abs=1e-3)


@pytest.mark.parametrize("kind", [*KINDS, *MIXED])
def test_calibrate_weights(kind):
    without, corrected = (
        error(calibrated(kind, steps=5, correction=correction), kind)
        for correction in ("none", "weights")
    )
    assert corrected < without


@pytest.mark.parametrize(
    "kind",
    ["channels first", *(pytest.param(kind, marks=pytest.mark.long)
                         for kind in ("nested", "open sizes", "float64", "wrapped", *MIXED))],
)  # fmt: skip
def test_calibrate_few_steps(kind):
    """All weights and ranges together."""
    model, _ = pair(kind)
    coarse = fs.convert(model, relu=fs.relu_parameters(3, 4.0), swish="swish_k8")
    assert error(calibrated(kind, steps=3), kind) < 0.5 * error(coarse, kind)


def test_calibrate_in_parts(monkeypatch):
    monkeypatch.setattr(calibrator, "Store", functools.partial(Store, memory=150_000))
    model, _ = pair()
    small = fs.convert(model, calibration_data=IMAGES, steps=5, correction="weights")
    assert error(small) < 2 * error(calibrated(steps=5, correction="weights"))


# --- simulate -----------------------------------------------------------------------------------


def simulated(kind=None, snn=None, **arguments):
    model, converted = pair(kind)
    return fs.simulate(snn or converted, images_for(model), **arguments)


def assert_equal(one, other):
    assert [site.spikes.tolist() for site in one.sites] == [s.spikes.tolist() for s in other.sites]
    assert (one.latency, one.period, one.steps) == (other.latency, other.period, other.steps)
    assert one.outputs == pytest.approx(other.outputs, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_simulate(kind):
    assert_equal(simulated(kind), simulated())


def test_simulate_in_parts():
    assert_equal(simulated(batch_size=7), simulated(batch_size=40))


@pytest.mark.parametrize("policy", MIXED)
def test_simulate_in_mixed_precision(policy):
    with pytest.raises(fs.ConversionError, match=policy.removeprefix("mixed_")):
        simulated(policy)


# --- fold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, *KINDS, *MIXED])
def test_fold(kind):
    model, _ = pair(kind)
    folded, report = fold(model)
    names = [x.name for x in folded._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    assert names == list(report.left)
    assert len(report.folded) + len(report.left) == 1
    assert bool(report.left) == (kind == "wrapped")
    assert run(folded) == pytest.approx(run(model), abs=2e-2 if kind in MIXED else 1e-5)


@pytest.mark.filterwarnings("ignore:gate inputs outside")
@pytest.mark.parametrize("kind", [None, *(kind for kind in KINDS if kind != "wrapped")])
def test_tools_on_folded_networks(kind):
    model, _ = pair(kind)
    snn = fs.convert(model, relu=RELU, fold_batch_norm=True)
    spikes = [layer.total_spikes for layer in profiled(kind, snn).layers]
    assert spikes == [layer.total_spikes for layer in profiled().layers]
    assert [int(site.spikes.sum()) for site in simulated(kind, snn).sites] == spikes
    assert figures(compared(kind, snn)) == pytest.approx(figures(compared()), rel=1e-3, abs=1e-6)
