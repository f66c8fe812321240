"""Making a piece of sound a little shorter or longer without a click. Knows no device and no clock."""

from __future__ import annotations

import numpy as np


def splice(samples: np.ndarray, cut: int, fade: int) -> np.ndarray:
    """Shorten `samples` [n] by `cut`, or lengthen them by -`cut`, with one crossfade where it shows least.

    Two places of the signal, `cut` apart, are joined where they differ least over the `fade` samples of the
    crossfade (the idea of WSOLA: Verhelst and Roelands, 1993). n must be at least |cut| + fade.
    """
    if cut == 0:
        return samples
    shift = abs(cut)
    difference = np.square(samples[shift:] - samples[:-shift], dtype=np.float64)
    energy = np.concatenate([[0.0], np.cumsum(difference)])
    near = int(np.argmin(energy[fade:] - energy[:-fade]))
    leave, enter = (near, near + shift) if cut > 0 else (near + shift, near)
    rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    seam = samples[leave : leave + fade] * (1 - rise) + samples[enter : enter + fade] * rise
    return np.concatenate([samples[:leave], seam, samples[enter + fade :]])
