"""Shared by all tests: a plain numpy FS-neuron, and where CIFAR-10 is."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # others run beside this one
    for threads in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def plain_loop(x, parameters):
    """Equations (1)-(3) in numpy: response, spike train (..., K), spike count. NaN gives NaN.

    Of ChannelParameters channel by channel, each with its own set.
    """
    if hasattr(parameters, "members"):
        axis = parameters.axis % np.ndim(x)
        slices = np.moveaxis(np.asarray(x, np.float32), axis, 0)
        parts = [
            plain_loop(part, parameters.members[i])
            for part, i in zip(slices, parameters.index, strict=True)
        ]
        return tuple(np.moveaxis(np.stack(whole), 0, axis) for whole in zip(*parts, strict=True))
    v = np.asarray(x, np.float32).copy()
    y = np.zeros_like(v)
    spikes = []
    with np.errstate(invalid="ignore", over="ignore"):
        for T, h, d in zip(parameters.T, parameters.h, parameters.d, strict=True):
            z = (v >= T).astype(np.float32)
            y = y + d * z
            v = v - h * z
            spikes.append(z)
    y = np.where(np.isnan(x), np.float32(np.nan), y)
    train = np.stack(spikes, axis=-1)
    return y, train, train.sum(axis=-1).astype(np.int32)


@pytest.fixture(autouse=True)
def no_gradients_on_pytorch(request):
    """PyTorch's tensors do not become numpy arrays while they carry gradients."""
    if keras.backend.backend() != "torch" or "trains" in request.node.name:
        yield
        return
    import torch

    with torch.no_grad():
        yield


@pytest.fixture
def cifar10_dir():
    for folder in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared" / "tensorflow_datasets"):
        if folder and (pathlib.Path(folder) / "cifar10").is_dir():
            return str(folder)
    pytest.skip(
        "needs CIFAR-10: set TFDS_DATA_DIR to a tensorflow-datasets folder that holds cifar10/"
    )
