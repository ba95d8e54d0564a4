"""What a request will cost, before it is sent."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """Requests, bytes (None: the vendor does not say) and money in the currency of the source's budget.

    `exact` is false where pages can follow that nobody can count before asking.
    """

    requests: int = 0
    bytes: int | None = None
    money: Decimal = Decimal(0)
    exact: bool = True

    def __add__(self, other: "Quote") -> "Quote":
        size = None if self.bytes is None or other.bytes is None else self.bytes + other.bytes
        return Quote(self.requests + other.requests, size, self.money + other.money, self.exact and other.exact)
