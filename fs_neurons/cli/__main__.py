"""`python -m fs_neurons.cli` is `fs-neurons`."""

from fs_neurons.cli import run

run()
