"""The flag --strategy: on which devices and machines an experiment runs."""

from __future__ import annotations

import sys

from absl import flags

from fs_neurons.backend import distribution

FLAGS = flags.FLAGS
flags.DEFINE_enum("strategy", "one", distribution.STRATEGIES, distribution.STRATEGY_HELP)


def start() -> distribution.Distribution:
    """What the flag asks for; call it before anything else that uses TensorFlow."""
    try:
        return distribution.start(FLAGS.strategy)
    except ValueError as error:
        sys.exit(f"--strategy: {error}")
