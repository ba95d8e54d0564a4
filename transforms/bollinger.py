"""Bollinger bands with the deviation of each window's own bars.

The running deviation of pandas, which `ta` uses, carries the rounding of all bars before: after a 10:1
split the bands of the next year are wrong in the ninth digit, after a crash in the fifth.
"""

from typing import TYPE_CHECKING
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from transforms.columns import Floats
from transforms.values import indicator

if TYPE_CHECKING:
    import pandas as pd

# numbers in memory at once
_BLOCK: Final = 4_000_000


def _bands(close: "pd.Series[float]", window: int, window_dev: float) -> tuple[Floats, Floats, Floats]:
    """Return the lower, middle and upper band."""
    middle = np.full(close.size, np.nan)
    deviation = np.full(close.size, np.nan)
    windows = sliding_window_view(close.to_numpy(), window)
    step = max(1, _BLOCK // window)
    for start in range(0, len(windows), step):
        part = windows[start : start + step]
        rows = slice(window - 1 + start, window - 1 + start + len(part))
        # measured from the last close: exactly zero while the market stands still
        distance = part - part[:, -1:]
        middle[rows] = part[:, -1] + distance.mean(axis=1)
        deviation[rows] = distance.std(axis=1)
    return middle - window_dev * deviation, middle, middle + window_dev * deviation


def _whole(window: int) -> int:
    return window - 1


@indicator(warmup=_whole)
def bollinger_lband(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), lower band"""
    return _bands(close, window, window_dev)[0]


@indicator(warmup=_whole)
def bollinger_hband(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), upper band"""
    return _bands(close, window, window_dev)[2]


@indicator(warmup=_whole)
def bollinger_wband(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), width in percent of the middle band"""
    lower, middle, upper = _bands(close, window, window_dev)
    return (upper - lower) / middle * 100


@indicator(warmup=_whole)
def bollinger_pband(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), place of the close between the bands: 0 lower, 1 upper"""
    lower, _, upper = _bands(close, window, window_dev)
    return (close.to_numpy() - lower) / (upper - lower)


@indicator(warmup=_whole)
def bollinger_hband_indicator(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), 1 where the close is above the upper band, else 0"""
    return (close.to_numpy() > _bands(close, window, window_dev)[2]).astype(np.float64)


@indicator(warmup=_whole)
def bollinger_lband_indicator(close: "pd.Series[float]", window: int = 20, window_dev: float = 2.0) -> Floats:
    """Bollinger Bands (BB), 1 where the close is below the lower band, else 0"""
    return (close.to_numpy() < _bands(close, window, window_dev)[0]).astype(np.float64)
