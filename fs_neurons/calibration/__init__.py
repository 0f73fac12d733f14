"""Post-training calibration: fewer steps and spikes for the same accuracy, from unlabelled inputs."""

from fs_neurons.calibration.calibrator import calibrate
from fs_neurons.calibration.settings import CORRECTIONS, Settings
from fs_neurons.calibration.statistics import InputStatistics, input_statistics

__all__ = ["CORRECTIONS", "InputStatistics", "Settings", "calibrate", "input_statistics"]
