"""Log-mel features against a plain loop."""

import numpy as np
import pytest

from fs_neurons.data.audio import log_mel

RATE, FRAME, HOP, BANDS = 8000, 256, 128, 40


def plain_log_mel(samples):
    """Frame by frame and band by band, from the definition of a Fourier transform."""
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    points = [
        700 * (10 ** (m / 2595) - 1) for m in np.linspace(mel(20.0), mel(RATE / 2), BANDS + 2)
    ]
    window = [0.5 - 0.5 * np.cos(2 * np.pi * n / FRAME) for n in range(FRAME)]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(FRAME // 2 + 1), np.arange(FRAME)) / FRAME)
    powers = []
    for start in range(0, len(samples) - FRAME + 1, HOP):
        spectrum = np.abs(turns @ (samples[start : start + FRAME] * window)) ** 2
        row = []
        for low, centre, high in zip(points, points[1:], points[2:], strict=False):
            total = 0.0
            for k, power in enumerate(spectrum):
                f = k * RATE / FRAME
                if low < f <= centre:
                    total += power * (f - low) / (centre - low)
                elif centre < f < high:
                    total += power * (high - f) / (high - centre)
            row.append(total)
        powers.append(row)
    levels = np.log(np.maximum(powers, 1e-8 * np.max(powers)))
    return (levels - levels.mean()) / levels.std()


def test_features_are_those_of_a_plain_loop():
    random = np.random.default_rng(0)
    tone = 1000 * np.sin(2 * np.pi * 700 * np.arange(900) / RATE)
    samples = (tone + random.normal(scale=30, size=900)).astype(np.int16)
    expected = plain_log_mel(samples.astype(float))
    actual = log_mel(samples, RATE)
    assert actual.shape == expected.shape == (6, BANDS) and actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_loudness_does_not_matter_and_silence_gives_zeros():
    samples = np.random.default_rng(1).normal(size=1000)
    np.testing.assert_allclose(log_mel(100 * samples, RATE), log_mel(samples, RATE), atol=1e-5)
    assert not log_mel(np.zeros(1000), RATE).any()


def test_a_short_recording_has_one_frame_and_other_rates_have_the_same_frames():
    assert log_mel(np.ones(10), RATE).shape == (1, BANDS)
    assert log_mel(np.random.default_rng(2).normal(size=16000), 16000).shape[0] == 61


@pytest.mark.parametrize("samples", [np.zeros((5, 2)), np.zeros(0), np.array([1.0, np.nan])])
def test_what_is_no_recording_is_refused(samples):
    with pytest.raises(ValueError, match="one channel"):
        log_mel(samples, RATE)
