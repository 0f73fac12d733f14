"""Which digit is spoken in a WAV file, by a recurrent network of FS-neurons, and every spike over time.

    python examples/spoken_digits.py RECORDING.wav

Takes mono recordings of about a second at any rate from 8 kHz on (16-bit PCM); writes spoken_digits.png: steps of the
sequence to the right, the gate neurons of the LSTM upwards, a darker dot for more spikes.
"""

import sys
import wave

import keras
import numpy as np
from matplotlib.figure import Figure
from scipy.signal import resample_poly

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.data.audio import log_mel
from fs_neurons.data.sequences import SPOKEN_FRAMES, SPOKEN_RATE
from fs_neurons.layers import record_spikes
from fs_neurons.models import sequences


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/spoken_digits.py RECORDING.wav")
    features = log_mel(read_wav(sys.argv[1]), SPOKEN_RATE)[:SPOKEN_FRAMES]

    snn = fs.convert(sequences.pretrained("spoken_digit_lstm"))
    padded = np.zeros((1, SPOKEN_FRAMES, features.shape[1]), np.float32)
    padded[0, : len(features)] = features
    with record_spikes(spikes_of_neurons) as records:
        scores = keras.ops.convert_to_numpy(snn(padded))[0]
    print(f"digit {scores.argmax()}")

    # One record per gate and step, in turn: (steps, gates, neurons).
    gates = list(dict.fromkeys(record.layer.name for record in records))
    counts = np.stack([keras.ops.convert_to_numpy(record.spikes)[0] for record in records])
    counts = counts.reshape(SPOKEN_FRAMES, len(gates), -1)[: len(features)]
    print(
        f"{counts.sum():,} spikes of {counts[0].size} gate neurons in {len(features)} steps,"
        f" {counts.mean():.2f} per neuron and step"
    )
    raster(counts, gates).savefig("spoken_digits.png", dpi=150)


def read_wav(path: str) -> np.ndarray:
    """Samples (samples,) of a recording, at 8 kHz."""
    with wave.open(path) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            sys.exit(f"{path}: not a mono recording of 16 bits")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        rate = file.getframerate()
    return resample_poly(samples, SPOKEN_RATE, rate) if rate != SPOKEN_RATE else samples


def spikes_of_neurons(x, parameters):
    """What every neuron gives, and how often it fires: a `measure` for `record_spikes`."""
    return neuron.response(x, parameters), neuron.spike_count(x, parameters)


def raster(counts: np.ndarray, gates: list[str]) -> Figure:
    """Spikes (steps, gates, neurons) as a picture, gate above gate."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    steps, _, neurons = counts.shape
    picture = axes.imshow(
        counts.reshape(steps, -1).T,
        aspect="auto",
        origin="lower",
        cmap="Blues",
        interpolation="nearest",
    )
    axes.set(xlabel="step of the sequence (16 ms)", yticks=(np.arange(len(gates)) + 0.5) * neurons)
    axes.set_yticklabels(gates)
    for gate in range(1, len(gates)):
        axes.axhline(gate * neurons - 0.5, color="#888888", linewidth=0.5)
    figure.colorbar(picture, ax=axes, label="spikes")
    return figure


if __name__ == "__main__":
    main()
