"""Smooth random surfaces, and a small blur, in numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# Standard deviation of a 2-D cubic B-spline surface over unit-variance knots: mean of the squared weights, 151/315.
_SPLINE_STD = 151 / 315


def _spline_weights(length: int, period: float) -> F32:
    """Cubic B-spline weights float32 [length, knots]: each sample is a mix of its four nearest knots."""
    position = np.arange(length) / period
    knot = position.astype(np.int64)
    t = position - knot
    weights: F32 = np.zeros((length, int(knot[-1]) + 4), np.float32)
    rows = np.arange(length)
    for offset, weight in enumerate(
        ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3),
    ):
        weights[rows, knot + offset] = weight / 6
    return weights


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], period: float) -> F32:
    """Random surface float32 [H, W], mean 0, standard deviation about 1, bumps about `period` pixels wide."""
    down, across = _spline_weights(shape[0], period), _spline_weights(shape[1], period)
    knots = rng.standard_normal((down.shape[1], across.shape[1]), np.float32)
    return np.asarray(down @ knots @ across.T / np.float32(_SPLINE_STD), dtype=np.float32)


def fractal_noise(rng: np.random.Generator, shape: tuple[int, int], period: float, octaves: int) -> F32:
    """Sum of smooth surfaces float32 [H, W], each half as wide and half as high as the one before; deviation 1."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += smooth_noise(rng, shape, period / 2**octave) * np.float32(0.5**octave)
    total /= np.float32(np.sqrt(sum(0.25**octave for octave in range(octaves))))
    return total


def grain(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Pixel-sized speckle float32 [H, W], slightly softened, standard deviation about 1."""
    # A binomial 1-2-1 blur in both axes leaves 6/16 of the deviation.
    return blur(rng.standard_normal(shape, np.float32)) / np.float32(6 / 16)


def blur(image: F32) -> F32:
    """Binomial 1-2-1 blur of float32 [H, W] in both axes; the outermost pixels are repeated."""
    padded = np.pad(image, 1, mode="edge")
    tall = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    soft: F32 = (tall[:, :-2] + 2 * tall[:, 1:-1] + tall[:, 2:]) * np.float32(1 / 16)
    return soft


def profile(rng: np.random.Generator, length: int, width: float) -> F32:
    """Random line float32 [length] that repeats without a seam, bumps about `width` samples wide, deviation 1."""
    kernel = np.exp(-0.5 * ((np.arange(length) - length // 2) / width) ** 2)
    spectrum = np.fft.rfft(rng.standard_normal(length)) * np.abs(np.fft.rfft(kernel))
    line = np.fft.irfft(spectrum, length)
    return np.asarray(line / line.std(), dtype=np.float32)
