"""Post-training calibration: fewer steps and spikes for the same accuracy, from unlabelled inputs."""

from fs_neurons.calibration.calibrator import CORRECTIONS, Settings, calibrate

__all__ = ["CORRECTIONS", "Settings", "calibrate"]
