"""The native loop against a plain one, with one thread and several."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import plain_loop

from fs_neurons.backend import numpy_operation, runs_numpy
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.native_loop import BLOCK, FEWEST_FOR_A_THREAD, response_and_count

# (entries, channels, behind): of one set, with channels last, and with neurons behind them.
SHAPES = [
    (1, 1, 1),
    (BLOCK + 3, 1, 1),
    (7, 5, 1),
    (BLOCK + 1, 3, 1),
    (4, 3, 6),
    (2, 2, BLOCK + 5),
    (3, 5, 0),
]


def some_sets(channels, K, seed=0):
    random = np.random.default_rng(seed)
    return [
        FSParameters(*random.normal(0, 1, (3, K)).astype(np.float32), name=str(c))
        for c in range(channels)
    ]


@pytest.mark.parametrize("K", [1, 4, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_the_plain_loop_of_each_channel(shape, K):
    sets = some_sets(shape[1], K)
    x = np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)
    x.reshape(-1)[:5] = [np.nan, np.inf, -np.inf, -0.0, sets[0].T[0]][: x.size]
    rows = [np.stack([getattr(p, name) for p in sets], axis=1) for name in "Thd"]
    y, count = response_and_count(x, *rows)
    for c, p in enumerate(sets):
        expected, _, spikes = plain_loop(x[:, c], p)
        np.testing.assert_array_equal(y[:, c], expected)
        np.testing.assert_array_equal(count[:, c], spikes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (1, 3, 4)])
def test_threads_share_the_neurons(shape):
    sets = some_sets(shape[1], 6)
    entries = 3 * FEWEST_FOR_A_THREAD // np.prod(shape[1:]) + 7
    x = np.random.default_rng(0).normal(0, 2, (entries, *shape[1:])).astype(np.float32)
    rows = [np.stack([getattr(p, name) for p in sets], axis=1) for name in "Thd"]
    for alone, shared in zip(
        response_and_count(x, *rows), response_and_count(x, *rows, threads=3), strict=True
    ):
        np.testing.assert_array_equal(shared, alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no forks")
def test_a_fork_has_threads_of_its_own():
    """Of a process that has used its own."""
    program = (
        "import os, numpy as np\n"
        "from fs_neurons.neuron.native_loop import FEWEST_FOR_A_THREAD as n, response_and_count\n"
        "x, one = np.ones((2 * n, 1, 1), 'f4'), np.ones((4, 1), 'f4')\n"
        "run = lambda: response_and_count(x, one, one, one, threads=2)\n"
        "run()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    run()\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="an operation of PyTorch")
def test_pytorch_knows_what_it_gives():
    import torch

    x, T, h, d = torch.zeros(2, 3, 4), *torch.ones(3, 2, 3)
    if not runs_numpy(x):
        pytest.skip("before PyTorch 2.4")
    torch.compile(numpy_operation(response_and_count), fullgraph=True, backend="eager")(x, T, h, d)
    torch.library.opcheck(torch.ops.fs_neurons.response_and_count.default, ([x, T, h, d],))
    assert not runs_numpy(x.to("meta"))
