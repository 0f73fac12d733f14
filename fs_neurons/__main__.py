"""`python -m fs_neurons` is `fs-neurons`."""

from fs_neurons.cli import run

run()
