"""Log-mel features of recordings: how much of each frequency band there is, frame by frame.

    features = log_mel(samples, 8000)      # float32 (frames, 40)

A frame is multiplied by a Hann window; the powers of its Fourier transform are summed over triangular bands that are
equally wide on the mel scale, 2595 log10(1 + f / 700), and their logarithms are standardised over the whole
recording, so that its loudness does not matter.
"""

from __future__ import annotations

import functools

import numpy as np

FRAME_SECONDS, HOP_SECONDS = 0.032, 0.016
BANDS = 40
LOWEST_HZ = 20.0
# Silence, relative to the loudest band of the recording: 80 dB.
FLOOR = 1e-8


def log_mel(samples: np.ndarray, rate: int, bands: int = BANDS) -> np.ndarray:
    """Features of one recording.

    Args:
        samples: (samples,), any number type, mono.
        rate: samples per second.
        bands: of the mel scale, from 20 Hz to half the rate.

    Returns:
        float32 (frames, bands), of mean 0 and standard deviation 1; one of 32 ms every 16 ms, as many as lie
        within the recording, and at least one. A silent recording gives zeros.

    Raises:
        ValueError: samples that are not one channel, none, or not finite.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise ValueError(
            f"samples must be a finite array (samples,) of one channel, got shape {samples.shape}"
        )
    frame, hop = round(FRAME_SECONDS * rate), round(HOP_SECONDS * rate)
    samples = np.pad(samples, (0, max(0, frame - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    powers = np.abs(np.fft.rfft(frames * window)) ** 2 @ mel_bands(frame, rate, bands)
    if not powers.any():
        return np.zeros(powers.shape, np.float32)
    levels = np.log(np.maximum(powers, FLOOR * powers.max()))
    features: np.ndarray = (levels - levels.mean()) / levels.std()
    return features.astype(np.float32)


@functools.cache
def mel_bands(frame: int, rate: int, bands: int) -> np.ndarray:
    """Weights (frequencies of a frame, bands) of triangles between neighbouring points of the mel scale.

    Args:
        frame: samples of a frame.
        rate: samples per second.
        bands: number of triangles.
    """
    frequencies = np.arange(frame // 2 + 1) * rate / frame
    points = _hertz(np.linspace(_mel(LOWEST_HZ), _mel(rate / 2), bands + 2))
    low, centre, high = points[:-2], points[1:-1], points[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    weights: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    weights.setflags(write=False)  # shared between all callers
    return weights


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
