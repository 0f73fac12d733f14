"""Random networks: what must hold for every network that can be built.

`make fuzz EXAMPLES=2000` tries more of them than the tests do.
"""

import hashlib
import os

import keras
import numpy as np
import pytest
from conftest import plain_loop
from hypothesis import HealthCheck, given, settings
from keras import ops
from networks import Network, networks

import fs_neurons as fs
from fs_neurons.conversion import fold

pytestmark = [
    pytest.mark.long,
    # Keras draws the seeds of its initializers from `random`; weights are set afterwards.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
several = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def run(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [ops.convert_to_numpy(ops.cast(y, "float32")) for y in outputs]


def precision(model) -> float:
    """Of the narrowest type that the network computes in."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    return 2e-2 if dtypes & {"float16", "bfloat16"} else 2e-5


def assert_close(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def digest(model) -> str:
    weights = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return hashlib.sha256(model.to_json().encode() + weights).hexdigest()


def converted(network: Network) -> keras.Model:
    try:
        return fs.convert(network.model, quality="paper", unsupported="keep")
    except fs.ConversionError as error:
        assert "no activation" in str(error) or "'" in str(error)  # names what it refuses
        return None


@several
@given(networks())
def test_the_pass_changes_nothing_and_leaves_the_original_alone(network):
    before = digest(network.model)
    assert fs.verify(network.model, network.inputs, tolerance=precision(network.model)) >= 0
    converted(network)
    assert digest(network.model) == before


@several
@given(networks())
def test_saved_and_loaded_networks_give_the_same(tmp_path_factory, network):
    snn = converted(network)
    if snn is None:
        return
    path = tmp_path_factory.mktemp("fuzz") / "snn.keras"
    snn.save(path)
    for a, b in zip(
        run(keras.models.load_model(path), network.inputs), run(snn, network.inputs), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@several
@given(networks())
def test_counts_are_those_of_a_plain_loop_and_of_the_simulation(network):
    snn = converted(network)
    if snn is None:
        return

    def keep(x, parameters):
        y, _ = fs.neuron.response_and_count(ops.cast(x, "float32"), parameters)
        return y, x

    with fs.record_spikes(keep) as records:
        snn(network.inputs, training=False)
    expected = [
        int(
            plain_loop(ops.convert_to_numpy(ops.cast(r.spikes, "float32")), r.layer.parameters)[
                2
            ].sum()
        )
        for r in records
    ]
    profile = fs.profile(snn, network.inputs)
    assert [layer.total_spikes for layer in profile.layers] == expected
    if precision(snn) > 1e-3:
        with pytest.raises(fs.ConversionError, match="float16"):
            fs.simulate(snn, network.inputs)
        return
    simulation = fs.simulate(snn, network.inputs)
    assert [int(site.spikes.sum()) for site in simulation.sites] == expected
    names = [layer.name for layer in profile.layers]
    assert names == [site.name for site in simulation.sites]
    assert_close(
        [np.asarray(y, np.float32) for y in keras.tree.flatten(simulation.outputs)],
        run(snn, network.inputs),
        precision(snn),
    )


@several
@given(networks())
def test_folded_networks_compute_the_same(network):
    folded, _ = fold(network.model)
    tolerance = 10 * precision(network.model)
    assert_close(run(folded, network.inputs), run(network.model, network.inputs), tolerance)


@settings(parent=several, max_examples=max(1, EXAMPLES // 4))
@given(networks())
def test_calibration_runs_or_refuses(network):
    data = keras.tree.map_structure(
        lambda x: np.tile(x, (10,) + (1,) * (x.ndim - 1)), network.inputs
    )
    try:
        snn = fs.convert(
            network.model, calibration_data=data, steps=4, correction="mean", unsupported="keep"
        )
    except fs.ConversionError as error:
        assert "'" in str(error)
        return
    assert all(np.isfinite(y).all() for y in run(snn, network.inputs))
