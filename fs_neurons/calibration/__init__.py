"""Post-training calibration: fewer steps and spikes for the same accuracy, from unlabelled inputs."""

from fs_neurons.calibration.calibrator import calibrate
from fs_neurons.calibration.input_statistics import InputStatistics, input_statistics
from fs_neurons.calibration.settings import CORRECTIONS, Settings

__all__ = ["CORRECTIONS", "InputStatistics", "Settings", "calibrate", "input_statistics"]
