"""Shared by all tests: a plain numpy FS-neuron, and where CIFAR-10 is."""

import contextlib
import functools
import importlib
import io
import os
import pathlib
import platform
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # others run beside this one
    for threads in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import keras
import numpy as np
import pytest
from absl import app, flags
from keras import ops

import fs_neurons as fs

ROOT = pathlib.Path(__file__).resolve().parent.parent


def compute_in_float32():
    """On a GPU too, where products of matrices and convolutions round to TensorFloat-32 by default, and sum up
    gradients in any order."""
    backend = keras.backend.backend()
    if backend == "jax":
        # Has to be there before JAX starts: sums of gradients in one order on a GPU.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    elif backend == "torch":
        import torch

        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


compute_in_float32()


def on_x86():
    """Whether the processor makes the smallest integer of NaN, as these do."""
    return platform.machine().lower() in ("x86_64", "amd64")


def on_gpu():
    """Whether the backend computes on one."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def pytest_addoption(parser):
    parser.addoption(
        "--long", default="", help="run the long tests too: 'all', or part 'K/N' of them"
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests marked `long` that were not asked for."""
    chosen = config.getoption("--long")
    part, parts = (0, 1) if chosen in ("", "all") else map(int, chosen.split("/"))
    long = [item for item in items if item.get_closest_marker("long")]
    wanted = {id(item) for item in (long[part % parts :: parts] if chosen else [])}
    left_out = [item for item in long if id(item) not in wanted]
    config.hook.pytest_deselected(items=left_out)
    gone = set(map(id, left_out))
    items[:] = [item for item in items if id(item) not in gone]


@functools.cache
def convolves_channels_first():
    """Whether the framework does: TensorFlow without oneDNN, on a CPU, does not."""
    try:
        keras.layers.Conv2D(1, 1, data_format="channels_first")(np.zeros((1, 1, 1, 1)))
    except Exception:
        return False
    return True


def takes_unused_inputs():
    used, unused = keras.Input((1,)), keras.Input((1,))
    try:
        keras.Model([used, unused], -used)
    except ValueError:
        return False
    return True


with_masks = pytest.mark.skipif(
    not takes_unused_inputs(), reason="this Keras can't unroll masked sequences"
)


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


def simulated(snn, images, atol=1e-5):
    """`simulate`, whose outputs, and the spikes of every site, have to be those of the network."""
    result = fs.simulate(snn, images)
    np.testing.assert_allclose(result.outputs, ops.convert_to_numpy(snn(images)), atol=atol)
    with fs.record_spikes() as records:
        snn(images)
    for site, record in zip(result.sites, records, strict=True):
        np.testing.assert_array_equal(site.spikes, ops.convert_to_numpy(record.spikes))
    return result


def run_experiment(module, *arguments, expect=0):
    """What `python -m experiments.MODULE ARGUMENTS` prints; where it ends with 1, what it says then.

    In this process, so that TensorFlow starts once.
    """
    from experiments import runner

    name = f"experiments.{module}"
    experiment = importlib.import_module(name)
    printed, message = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            runner.run_here(experiment.main, experiment.FLAGS, name, arguments)
    except (flags.Error, app.UsageError) as error:
        message = str(error)
    except SystemExit as end:
        message = str(end.code)
        assert "\n" not in message
    assert (expect == 0) == (message is None), message
    return printed.getvalue() if message is None else message


def run_in_a_child(module, *arguments, expect=0, **environment):
    """The same in a process of its own: what needs another environment, or a TensorFlow not started yet."""
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == expect, result.stderr[-3000:]
    assert expect == 0 or "Traceback" not in result.stderr
    return result.stdout if expect == 0 else result.stderr


def gradient(function, *values):
    """Of the sum of `function`, on any backend."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(lambda *v: function(*v).sum(), argnums=tuple(range(len(values))))(*values)
    if backend == "torch":
        import torch

        with torch.enable_grad():
            tensors = [ops.convert_to_tensor(v).requires_grad_() for v in values]
            function(*tensors).sum().backward()
        return [tensor.grad for tensor in tensors]
    import tensorflow as tf

    tensors = [tf.constant(v) for v in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(function(*tensors))
    return tape.gradient(total, tensors)


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
def short_refinement(monkeypatch):
    """Two passes over the calibration data in place of ten, where it doesn't matter how far they get."""
    monkeypatch.setattr("fs_neurons.calibration.refinement.PASSES", 2)


@pytest.fixture
def cifar10_dir():
    pytest.importorskip("tensorflow_datasets", reason="CIFAR-10 is read with it")
    for folder in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared" / "tensorflow_datasets"):
        if folder and (pathlib.Path(folder) / "cifar10").is_dir():
            return str(folder)
    pytest.skip(
        "needs CIFAR-10: set TFDS_DATA_DIR to a tensorflow-datasets folder that holds cifar10/"
    )
