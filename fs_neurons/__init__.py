"""Few-spikes neurons: turns trained Keras networks into spiking ones, about two spikes per neuron."""

__version__ = "0.1.0"
