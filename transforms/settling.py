"""Warm-ups of `ta`'s functions: how many bars before a value no longer depends on where the read began.

Derived from the formulas, not measured, but for the two that say so:

- a window of n bars is whole after n - 1 bars; one of n changes after n;
- an exponential average that gives the newest bar the weight w keeps (1 - w)^k of its start after k bars;
- averages of averages take longer than the slowest of them, but less than all one after another.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from transforms.base import ANCHORED
from transforms.columns import Floats
from transforms.values import Resume
from transforms.values import Rule

#: what an average may keep of its start: a tenth of the 1e-9 promised, for starts ten times off
SETTLED: Final = 1e-10
#: for averages of volumes, whose start may be a thousand times off
SETTLED_VOLUME: Final = 1e-12
#: for averages whose differences are divided by their range within a window, a thousandth of the value
SETTLED_FINE: Final = 1e-13
#: the same done twice (`stc`)
SETTLED_FINEST: Final = 1e-15


def settle(weight: float, to: float = SETTLED) -> int:
    """Return the bars after which an exponential average has forgotten its start."""
    return 0 if weight >= 1 else math.ceil(math.log(to) / math.log1p(-weight))


def cascade(*weights: float, to: float = SETTLED) -> int:
    """Return the bars after which averages of averages have forgotten their start.

    What n equal averages keep is the chance of fewer than n successes in k trials of chance w; unequal ones
    keep no more than n of the slowest.
    """
    slowest, longest = min(weights), sum(settle(weight, to) for weight in weights)

    def forgotten(bars: int) -> bool:
        terms = (math.comb(bars, n) * slowest**n * (1 - slowest) ** (bars - n) for n in range(len(weights)))
        return sum(terms) <= to

    shortest = settle(slowest, to)
    return shortest + bisect_left(range(shortest, longest), True, key=forgotten)


def ema(window: int, to: float = SETTLED) -> int:
    """Settling of the exponential average over a span."""
    return settle(2 / (window + 1), to)


def wilder(window: int, to: float = SETTLED) -> int:
    """Settling of Wilder's average."""
    return settle(1 / window, to)


def kama(window: int, pow1: int, pow2: int) -> int:
    """Settling of Kaufman's average, whose weight follows the market's efficiency.

    A random walk's efficiency is 1/sqrt(window); half of it is allowed for. In a market still choppier the
    values stay null until the average has really forgotten (`corrected.kama`).
    """
    slow, fast = 2 / (pow2 + 1), 2 / (pow1 + 1)
    return window + settle((0.5 / math.sqrt(window) * (fast - slow) + slow) ** 2)


def _last(window: int) -> int:
    return window - 1


def _changes(window: int) -> int:
    return window


def _ema(window: int) -> int:
    return ema(window)


def _ema_of_ema(first: int, second: int, to: float = SETTLED) -> int:
    # the second begins where the first has its first value
    return first - 1 + cascade(2 / (first + 1), 2 / (second + 1), to=to)


def _adx(window: int) -> int:
    return 2 * window + cascade(1 / window, 1 / window)


def _adx_line(window: int) -> int:
    # `ta` leaves the first value it could give at zero
    return window + 1 + wilder(window)


def _atr(window: int) -> int:
    return window + wilder(window)


def _slower(window_slow: int, window_fast: int) -> int:
    return ema(max(window_slow, window_fast))


def _signal(window_slow: int, window_fast: int, window_sign: int) -> int:
    return _ema_of_ema(max(window_slow, window_fast), window_sign)


def _slower_volume(window_slow: int, window_fast: int) -> int:
    return ema(max(window_slow, window_fast), SETTLED_VOLUME)


def _signal_volume(window_slow: int, window_fast: int, window_sign: int) -> int:
    return _ema_of_ema(max(window_slow, window_fast), window_sign, SETTLED_VOLUME)


def _donchian(window: int, offset: int) -> int:
    return window - 1 + offset


def _keltner(window: int, window_atr: int, original_version: bool) -> int:
    return window - 1 if original_version else max(ema(window), _atr(window_atr))


def _stochrsi(window: int) -> int:
    return 1 + wilder(window, SETTLED_FINE) + window - 1


def _trix(window: int) -> int:
    return 1 + 2 * (window - 1) + cascade(*[2 / (window + 1)] * 3)


def _psar(step: float, max_step: float) -> int:
    # measured: two runs meet at a common reversal, or close the gap by the acceleration, which lies
    # between step and max_step; on 10,000 simulated pairs of runs the geometric mean of both covered all
    return 2 + settle(math.sqrt(step * max(step, max_step)))


def _stc(window_slow: int, window_fast: int, cycle: int, smooth1: int, smooth2: int) -> int:
    # measured to be enough where the market moves; a smoothed stochastic at rest divides rounding by rounding
    return ema(max(window_slow, window_fast), SETTLED_FINEST) + 2 * cycle + ema(smooth1) + ema(smooth2)


def _sums(values: Floats, one: float, known: float) -> Floats:
    return values + (known - one)


def _products(values: Floats, one: float, known: float) -> Floats:
    return values * (known / one)


def _growth(values: Floats, one: float, known: float) -> Floats:
    # percent: 100 is what the first bar has
    return (100 + values) * ((100 + known) / (100 + one)) - 100


#: How those that need the first bar go on from a known value: sums and products of something of each bar.
RESUMES: Final[Mapping[str, Resume]] = {
    "acc_dist_index": _sums,
    "cumulative_return": _growth,
    "negative_volume_index": _products,
    "on_balance_volume": _sums,
    "volume_price_trend": _sums,
}

#: Quotients of averages of changes, see `Indicator.ratio`.
RATIOS: Final = frozenset(
    {"adx", "adx_neg", "adx_pos", "mass_index", "pvo", "pvo_hist", "pvo_signal", "rsi", "stc", "stochrsi"}
    | {"stochrsi_d", "stochrsi_k", "tsi"}
)

RULES: Final[Mapping[str, Rule]] = {
    # momentum
    "awesome_oscillator": lambda window1, window2: max(window1, window2) - 1,
    "kama": kama,
    "ppo": _slower,
    "ppo_hist": _signal,
    "ppo_signal": _signal,
    "pvo": _slower_volume,
    "pvo_hist": _signal_volume,
    "pvo_signal": _signal_volume,
    "roc": _changes,
    "rsi": lambda window: 1 + wilder(window),
    "stoch": _last,
    "stoch_signal": lambda window, smooth_window: window - 1 + smooth_window - 1,
    "stochrsi": _stochrsi,
    "stochrsi_d": lambda window, smooth1, smooth2: _stochrsi(window) + smooth1 - 1 + smooth2 - 1,
    "stochrsi_k": lambda window, smooth1: _stochrsi(window) + smooth1 - 1,
    "tsi": lambda window_slow, window_fast: 1 + _ema_of_ema(window_slow, window_fast),
    "ultimate_oscillator": lambda window1, window2, window3: max(window1, window2, window3),
    "williams_r": lambda lbp: lbp - 1,
    # volume
    "acc_dist_index": ANCHORED,
    "chaikin_money_flow": _last,
    "ease_of_movement": lambda: 1,
    "force_index": lambda window: 1 + ema(window, SETTLED_VOLUME),
    "money_flow_index": _changes,
    "negative_volume_index": ANCHORED,
    "on_balance_volume": ANCHORED,
    "sma_ease_of_movement": _changes,
    "volume_price_trend": ANCHORED,
    "volume_weighted_average_price": _last,
    # volatility
    "average_true_range": _atr,
    "bollinger_hband": _last,
    "bollinger_hband_indicator": _last,
    "bollinger_lband": _last,
    "bollinger_lband_indicator": _last,
    "bollinger_mavg": _last,
    "bollinger_pband": _last,
    "bollinger_wband": _last,
    "donchian_channel_hband": _donchian,
    "donchian_channel_lband": _donchian,
    "donchian_channel_mband": _donchian,
    "donchian_channel_pband": _donchian,
    "donchian_channel_wband": _donchian,
    "keltner_channel_hband": _keltner,
    "keltner_channel_hband_indicator": _keltner,
    "keltner_channel_lband": _keltner,
    "keltner_channel_lband_indicator": _keltner,
    "keltner_channel_mband": lambda window, original_version: window - 1 if original_version else ema(window),
    "keltner_channel_pband": _keltner,
    "keltner_channel_wband": _keltner,
    "ulcer_index": lambda window: 2 * (window - 1),
    # trend
    "adx": _adx,
    "adx_neg": _adx_line,
    "adx_pos": _adx_line,
    "aroon_down": _changes,
    "aroon_up": _changes,
    "cci": _last,
    "dpo": lambda window: max(window - 1, window // 2 + 1),
    "ema_indicator": _ema,
    "ichimoku_a": lambda window1, window2, visual: max(window1, window2) - 1 + (window2 if visual else 0),
    "ichimoku_b": lambda window2, window3, visual: window3 - 1 + (window2 if visual else 0),
    "ichimoku_base_line": lambda window2: window2 - 1,
    "ichimoku_conversion_line": lambda window1: window1 - 1,
    "macd": _slower,
    "macd_diff": _signal,
    "macd_signal": _signal,
    "mass_index": lambda window_fast, window_slow: _ema_of_ema(window_fast, window_fast) + window_slow - 1,
    "psar_down": _psar,
    "psar_down_indicator": lambda step, max_step: 1 + _psar(step, max_step),
    "psar_up": _psar,
    "psar_up_indicator": lambda step, max_step: 1 + _psar(step, max_step),
    "sma_indicator": _last,
    "stc": _stc,
    "trix": _trix,
    "vortex_indicator_neg": _changes,
    "vortex_indicator_pos": _changes,
    "wma_indicator": _last,
    # others
    "cumulative_return": ANCHORED,
    "daily_log_return": lambda: 1,
    "daily_return": lambda: 1,
}
