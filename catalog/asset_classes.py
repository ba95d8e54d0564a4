"""Asset classes and whether their prices can go to zero or below (CL settled at -37.63 on 2020-04-20)."""

from typing import Final

#: name -> True where a price is always positive
ASSET_CLASSES: Final[dict[str, bool]] = {
    "bond": True,
    "commodity": False,
    "crypto": True,
    "economic": False,
    "equity": True,
    "etf": True,
    "fund": True,
    "future": False,
    "fx": True,
    "index": False,
    "option": False,
    "other": False,
    "rate": False,
    "spread": False,
}
