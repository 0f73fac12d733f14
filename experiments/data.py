"""The flags of `runner.define_data_flags`, in the registry of the process, for scripts that use that one."""

from __future__ import annotations

import functools

from absl import flags

from experiments import runner

runner.define_data_flags(flags.FLAGS)
load_test_set = functools.partial(runner.load_test_set, flags.FLAGS)
