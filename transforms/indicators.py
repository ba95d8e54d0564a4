"""All indicators: every function of `ta` by its signature, and the functions written in this folder.

`ta` is imported when its functions are first asked for (it takes a second). Its `fillna` and `dropnans`
are never exposed: filled values see the future, dropped rows change the length.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from types import ModuleType
from typing import Final

import transforms
from transforms.settling import RATIOS
from transforms.settling import RESUMES
from transforms.settling import RULES
from transforms.values import Indicator
from transforms.values import adapt

#: Names people use. One of several functions gives several columns, each labelled by its own name.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "adi": ("acc_dist_index",),
    "ao": ("awesome_oscillator",),
    "aroon": ("aroon_up", "aroon_down"),
    "atr": ("average_true_range",),
    "bbands": ("bollinger_lband", "bollinger_mavg", "bollinger_hband"),
    "cmf": ("chaikin_money_flow",),
    "donchian": ("donchian_channel_lband", "donchian_channel_mband", "donchian_channel_hband"),
    "ema": ("ema_indicator",),
    "keltner": ("keltner_channel_lband", "keltner_channel_mband", "keltner_channel_hband"),
    "log_returns": ("daily_log_return",),
    "macd": ("macd_line", "macd_signal", "macd_diff"),
    "mfi": ("money_flow_index",),
    "nvi": ("negative_volume_index",),
    "obv": ("on_balance_volume",),
    "returns": ("daily_return",),
    "sma": ("sma_indicator",),
    "vpt": ("volume_price_trend",),
    "vwap": ("volume_weighted_average_price",),
    "wma": ("wma_indicator",),
}

#: The one function of `ta` under another name: everywhere else `macd` means line, signal and histogram.
RENAMED: Final[Mapping[str, str]] = {"macd": "macd_line"}

_MODULES: Final = ("momentum", "others", "trend", "volatility", "volume")
_HIDDEN: Final = frozenset({"fillna", "dropnans"})
# declared as a whole number by `ta`, while bands of 2.5 deviations are common
_FRACTIONS: Final = frozenset({"window_dev"})


@cache
def indicators() -> Mapping[str, Indicator]:
    """Return every indicator by name. A function in this folder takes the place of `ta`'s of that name."""
    found = {found.name: found for found in technical()}
    for module in modules():
        found.update({own.name: own for own in vars(module).values() if _written_in(module, own)})
    return MappingProxyType(dict(sorted(found.items())))


def technical() -> Iterator[Indicator]:
    """Yield an indicator for each function of `ta`."""
    for module_name in _MODULES:
        module = importlib.import_module(f"ta.{module_name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and name in RULES:
                yield adapt(
                    RENAMED.get(name, name),
                    function,
                    RULES[name],
                    ratio=name in RATIOS,
                    resume=RESUMES.get(name),
                    fractions=_FRACTIONS,
                    hidden=_HIDDEN,
                )


def modules() -> Iterator[ModuleType]:
    """Import and yield every module of this folder."""
    for found in pkgutil.iter_modules(transforms.__path__):
        yield importlib.import_module(f"transforms.{found.name}")


def _written_in(module: ModuleType, member: object) -> bool:
    return isinstance(member, Indicator) and member.function.__module__ == module.__name__
