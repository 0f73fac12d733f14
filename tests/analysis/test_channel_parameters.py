"""Profile, comparison and simulation of networks whose parameter sets differ between channels."""

import warnings

import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.neuron.sets import load

SET = load("swish_k8")
MEMBERS = tuple(
    fs.FSParameters(SET.T * s, SET.h * s, SET.d * s, name=f"s{s}", domain=(-2.0 * s, 3.0 * s))
    for s in (1.0, 2.0, 0.25)
)
INDEX = np.array([0, 2, 1, 1])


def networks(data_format="channels_last"):
    """A network, and the same with FS-neurons whose sets differ between the channels of its site."""
    keras.utils.set_random_seed(0)
    last = data_format == "channels_last"
    inputs = keras.Input((6, 6, 4) if last else (4, 6, 6))
    p = fs.ChannelParameters(MEMBERS, INDEX, -1 if last else 1)
    head = layers.Flatten(), layers.Dense(3)
    results = []
    for site in (layers.Activation("silu", name="site"), fs.FSSwish(p, name="site")):
        x = site(layers.AveragePooling2D(2, 1, "same", data_format=data_format)(inputs))
        for layer in head:
            x = layer(x)
        results.append(keras.Model(inputs, x))
    return (*results, p)


@pytest.fixture(params=["channels_last", "channels_first"])
def data_format(request):
    if request.param == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow pools channels_first on GPUs only")
    return request.param


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(0, 4, (7, 6, 6, 4)).astype(np.float32)


def gate_inputs(snn, images):
    site = snn.get_layer("site")
    return ops.convert_to_numpy(keras.Model(snn.inputs[0], site.input)(images))


def test_profile_counts_by_the_domain_and_threshold_of_each_channel(images, data_format):
    _, snn, p = networks(data_format)
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (site,) = fs.profile(snn, images, batch_size=4).layers
    x = gate_inputs(snn, images)
    y, _, count = plain_loop(x, p)
    along = (-1,) if data_format == "channels_last" else (-1, 1, 1)
    low, high = (np.float32(end).reshape(along) for end in p.domain)
    top = plain_loop(np.ones_like(x[:1]) * high, p)[0]
    assert (site.below, site.above) == ((x < low).sum(), (x >= high).sum())
    assert site.saturated == (y >= top).sum()
    assert site.silent == (count == 0).sum()
    assert site.total_spikes == count.sum()


def test_profile_tells_sets_apart_that_differ_only_in_their_domain():
    p = fs.relu_parameters(4, 8.0)
    narrow = fs.FSParameters(p.T, p.h, p.d, name="narrow", domain=(2.0, 4.0))
    x = np.tile(np.float32([[0, 1, 3, 5, 6, 7]]), (100, 1))
    shares = []
    for parameters in (p, narrow):
        model = keras.Sequential([keras.Input((6,)), fs.FSActivation(parameters), layers.Dense(1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (site,) = fs.profile(model, x, histogram_range=(-8, 8)).layers
        shares.append((site.below, site.above))
    assert shares == [(0, 0), (200, 300)]


def test_profile_warns_with_the_widest_domain(images):
    _, snn, _ = networks()
    with pytest.warns(UserWarning, match=r"outside \(-4, 6\) or less, channel by channel"):
        fs.profile(snn, images)


def test_comparison_clips_by_channel(images, data_format):
    ann, snn, p = networks(data_format)
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1).copy()
    (site,) = fs.compare(ann, snn, images).sites
    x = gate_inputs(snn, images)
    along = (-1,) if data_format == "channels_last" else (-1, 1, 1)
    low, high = (np.float32(end).reshape(along) for end in p.domain)
    outside = (x < low) | (x >= high)
    assert site.clipped_share == pytest.approx(outside.mean(), rel=1e-6)
    exact = x / (1 + np.exp(-x.astype(np.float64)))
    square = (plain_loop(x, p)[0] - exact) ** 2
    assert site.clipped == pytest.approx((square * outside).mean(), rel=1e-3)
    assert site.resolution == pytest.approx((square * ~outside).mean(), rel=1e-3)


def test_simulated_outputs_and_spikes_are_those_of_the_network(images, data_format):
    _, snn, p = networks(data_format)
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1).copy()
    result = fs.simulate(snn, images)
    expected = ops.convert_to_numpy(snn(images))
    np.testing.assert_allclose(result.outputs, expected, rtol=1e-5, atol=1e-5)
    train = plain_loop(gate_inputs(snn, images), p)[1]
    np.testing.assert_array_equal(
        result.sites[0].counts, train.reshape(len(images), -1, p.K).sum(axis=1)
    )
