"""What is on disk: shipped parameters, atomic writes, Keras models loaded safely."""

from fs_neurons.files.writing import params_dir, write_atomically

__all__ = ["params_dir", "write_atomically"]
