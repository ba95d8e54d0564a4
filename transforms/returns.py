"""Indicators over returns that `ta` lacks. This file is the example of how to add one: a function."""

from typing import TYPE_CHECKING

import numpy as np

from transforms.values import indicator

if TYPE_CHECKING:
    import pandas as pd


@indicator(warmup=lambda window: window)
def volatility(close: "pd.Series[float]", window: int = 20) -> "pd.Series[float]":
    """Standard deviation of the logarithmic returns of the last `window` bars, not annualised."""
    return close.transform(np.log).diff().rolling(window).std()
