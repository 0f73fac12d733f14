"""The same T, h and d on every processor: pinned fits, here and in a process that uses the least of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numba
import numpy as np
import pytest

from fs_neurons.backend import numba_cache
from fs_neurons.fitting import fit, moves, portable, search, staircase

ROOT = pathlib.Path(__file__).resolve().parents[2]
# name -> arguments of fit and the digest of the T, h, d found, the same on x86-64 and arm64.
PINNED = {
    "swish": (("swish", 8, (-8, 12)), {}),
    "guard": (("sigmoid", 6, (-6, 6)), {"guard": True, "spike_penalty": 1e-4}),
    "density": (("gelu", 7, (-6, 6)), {"input_distribution": (-0.1, 2.0), "spike_penalty": 1e-3}),
    "bits": (("tanh", 5, (-4, 4)), {"bits": 5}),
    "bptt": (("swish", 6, (-8, 12)), {"method": "bptt", "effort": 5}),
}  # fmt: skip
DIGESTS = {
    "swish": "a17bbd187f66b87c",
    "guard": "413c5b301261d6d4",
    "density": "80aef4b47439c544",
    "bits": "5f12c3f97058bd92",
    "bptt": "746826f4066f69fd",
}


def digests():
    return {name: digest(*arguments) for name, arguments in PINNED.items()}


def digest(arguments, options):
    fitted = fit(
        *arguments, **{"effort": 12_000, "time_budget": np.inf, "verbose": False, **options}
    )
    parts = (np.asarray(part, "<f4").tobytes() for part in (fitted.T, fitted.h, fitted.d))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_fits_are_the_pinned_ones():
    assert digests() == DIGESTS


def test_fits_are_the_pinned_ones_on_a_plain_processor():
    """Code for any x86-64 or arm64 processor, and none of numpy's and OpenBLAS' special kernels."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    usable = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "OPENBLAS_CORETYPE": "Prescott",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "NPY_DISABLE_CPU_FEATURES": " ".join(usable),
    }
    result = subprocess.run(
        [sys.executable, __file__], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **plain},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.splitlines()[-1]) == DIGESTS


def test_the_compiler_fuses_no_multiplication_and_addition():
    function = numba.njit(lambda a, b, c: a * b + c)
    function(1.0, 2.0, 3.0)
    (code,) = function.inspect_asm().values()
    assert not any(fused in code for fused in ("vfmadd", "fmla", "fmadd"))
    for module in (moves, portable, search, staircase):
        for part in vars(module).values():
            if isinstance(part, numba.core.dispatcher.Dispatcher):
                assert not part.targetoptions.get("fastmath")


def test_logarithm():
    for x in (1e-300, 1e-12, 0.3, 0.7071, 1.0, 1.5, 2.0, 12345.678, 1e300):
        assert portable.logarithm(x) == pytest.approx(np.log(x), rel=1e-14, abs=1e-15)


def test_random_numbers_are_those_of_splitmix64():
    """The generator's published first numbers for seed 1234567."""
    state = np.array([1234567], np.uint64)
    found = [int(portable.next_bits(state)) for _ in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_numbers_have_the_moments_they_should():
    state = portable.new_random(0)
    numbers = np.array([portable.uniform(state) for _ in range(20_000)])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    bells = np.array([portable.bell(state) for _ in range(20_000)])
    assert bells.mean() == pytest.approx(0, abs=0.03) and bells.std() == pytest.approx(1, abs=0.02)
    assert {int(portable.integer(state, 5)) for _ in range(200)} == set(range(5))


def test_compiled_code_is_kept_until_a_file_of_the_package_changes(tmp_path, monkeypatch):
    source = tmp_path / "doubling.py"
    source.write_text("def double(x):\n    return 2 * x\n")

    def hits():
        """Calls a fresh copy of the function; how often it was read from the cache."""
        spec = importlib.util.spec_from_file_location("doubling", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = numba_cache.native(module.double)
        assert function(3) == 6
        return sum(function.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1]
    monkeypatch.setattr(numba_cache, "_digest", lambda folder: "other")
    assert [hits(), hits()] == [0, 1]


def test_code_is_compiled_where_nothing_can_be_kept(monkeypatch):
    real = numba.njit

    def njit(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert numba_cache.native(lambda x: 3 * x)(2) == 6


if __name__ == "__main__":
    print(json.dumps(digests()))
