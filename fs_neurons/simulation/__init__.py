"""Networks in discrete time: FS-neurons, and rate coding to compare with."""

from fs_neurons.simulation.rate_coding import firing_thresholds, simulate_rate
from fs_neurons.simulation.spikes import Raster, Simulation, SiteActivity, simulate

__all__ = [
    "Raster",
    "Simulation",
    "SiteActivity",
    "firing_thresholds",
    "simulate",
    "simulate_rate",
]
