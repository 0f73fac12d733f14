"""Networks that version 0.1.0 saved, in params/finetuned: they load, and fire as they did then."""

import keras
import numpy as np
import pytest

import fs_neurons as fs
from fs_neurons.files import params_dir

# Spikes on four images of noise, as the version that saved the networks counted them.
SPIKES = {
    "resnet14_k2": 251217,
    "resnet14_k3": 332483,
    "resnet14_k4": 342131,
    "resnet20_k2": 367295,
    "resnet20_k3": 485850,
    "resnet20_k4": 495909,
    "resnet50_k2": 766022,
    "resnet50_k3": 1091181,
    "resnet50_k4": 1213696,
    "resnet8_k2": 143412,
    "resnet8_k3": 188829,
    "resnet8_k4": 201923,
}
# One of each depth; the others are long tests.
ALWAYS = ("resnet8_k2", "resnet14_k4", "resnet20_k3", "resnet50_k3")
# Convolutions round differently from processor to processor, which moves a gate input across a threshold now and then.
ROUNDING = 1e-3


@pytest.mark.parametrize(
    "name",
    [*ALWAYS, *(pytest.param(x, marks=pytest.mark.long) for x in SPIKES if x not in ALWAYS)],
)
def test_networks_load_and_fire_as_when_they_were_saved(name):
    snn = keras.models.load_model(params_dir() / "finetuned" / f"{name}.keras", compile=False)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    with fs.record_spikes() as records:
        snn(images, training=False)
    spikes = sum(int(keras.ops.convert_to_numpy(r.spikes).sum()) for r in records)
    assert spikes == pytest.approx(SPIKES[name], rel=ROUNDING)
    assert {r.layer.parameters.K for r in records} == {int(name[-1])}
