"""Functions of `ta` that look ahead, computed without: a function here takes the place of `ta`'s.

`kst` and `kst_sig` put the mean of the whole series before its start; `kama` measures its first changes
against the series' last bars. Later values are the same as `ta`'s.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from transforms.settling import SETTLED
from transforms.settling import kama as kama_warmup
from transforms.values import indicator

if TYPE_CHECKING:
    import pandas as pd


def _kst_warmup(
    roc1: int, roc2: int, roc3: int, roc4: int, window1: int, window2: int, window3: int, window4: int
) -> int:
    return max(roc1 + window1, roc2 + window2, roc3 + window3, roc4 + window4) - 1


@indicator(warmup=_kst_warmup)
def kst(
    close: "pd.Series[float]",
    roc1: int = 10,
    roc2: int = 15,
    roc3: int = 20,
    roc4: int = 30,
    window1: int = 10,
    window2: int = 10,
    window3: int = 10,
    window4: int = 15,
) -> "pd.Series[float]":
    """KST Oscillator (KST)"""
    rates = ((roc1, window1), (roc2, window2), (roc3, window3), (roc4, window4))
    smoothed = [(close / close.shift(roc) - 1).rolling(window).mean() for roc, window in rates]
    return 100 * (smoothed[0] + 2 * smoothed[1] + 3 * smoothed[2] + 4 * smoothed[3])


@indicator(warmup=lambda nsig, **windows: _kst_warmup(**windows) + nsig - 1)
def kst_sig(
    close: "pd.Series[float]",
    roc1: int = 10,
    roc2: int = 15,
    roc3: int = 20,
    roc4: int = 30,
    window1: int = 10,
    window2: int = 10,
    window3: int = 10,
    window4: int = 15,
    nsig: int = 9,
) -> "pd.Series[float]":
    """KST Oscillator, signal line"""
    line: pd.Series[float] = kst.function(close, roc1, roc2, roc3, roc4, window1, window2, window3, window4)
    return line.rolling(nsig).mean()


@indicator(warmup=kama_warmup)
def kama(close: "pd.Series[float]", window: int = 10, pow1: int = 2, pow2: int = 30) -> npt.NDArray[np.float64]:
    """Kaufman's Adaptive Moving Average (KAMA)"""
    slow, fast = 2 / (pow2 + 1), 2 / (pow1 + 1)
    path = close.diff().abs().rolling(window).sum()
    efficiency = (close.diff(window).abs() / path).where(path != 0, 0.0)
    weights = ((efficiency * (fast - slow) + slow) ** 2).to_numpy()[window:]
    prices = close.to_numpy()
    average = float(prices[window - 1])
    averages = np.full(prices.size, np.nan)
    for row, (weight, price) in enumerate(zip(weights.tolist(), prices[window:].tolist(), strict=True), window):
        average += weight * (price - average)
        averages[row] = average
    # the weights depend on the market: nothing is shown before the start is really forgotten
    kept = np.cumsum(np.log1p(-weights))
    averages[window:][kept > np.log(SETTLED)] = np.nan
    return averages
