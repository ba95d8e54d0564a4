"""What a vendor allows in a time: one token bucket for each of a source's quotas, shared by all who ask it.

A quota counts requests, or the vendor's own credits or weights. With Redis configured all workers of a source share
the buckets; without, all threads of the process do. What the vendor's headers say of what is left corrects ours.
"""

import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from typing import Final
from typing import Protocol

from catalog.errors import RateLimited
from catalog.errors import TransientError

#: the quota that every request takes one of
REQUESTS: Final = "requests"
#: longer waits are an answer ("come back later"), not a pause
LONGEST_WAIT: Final = 120.0
# seconds; what sums of floats leave over is no reason to wait
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Quota:
    """`amount` of something in any `seconds`, e.g. Quota("weight", 6000, 60)."""

    name: str
    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        """How much comes back each second."""
        return self.amount / self.seconds


class Buckets(Protocol):
    """Where the levels are kept."""

    def take(self, quotas: Sequence[Quota], costs: Mapping[str, float]) -> float:
        """Take the costs from every bucket, or nothing from any; returns the seconds to wait before trying again."""

    def correct(self, quota: Quota, left: float) -> None:
        """Lower a bucket to what the vendor says is left."""

    def pause(self, seconds: float) -> None:
        """Nobody takes anything for so long."""


class Limiter:
    """Waits until a request may be sent."""

    def __init__(
        self, name: str, quotas: Sequence[Quota], buckets: Buckets, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = name
        self.quotas = tuple(quotas)
        self.buckets = buckets
        self.sleep = sleep

    def take(self, costs: Mapping[str, float]) -> None:
        """Wait until the costs may be spent, and spend them; every request costs one of quota `requests` too.

        Raises RateLimited when that would take longer than two minutes.
        """
        asked = {REQUESTS: 1.0, **costs}
        waited = 0.0
        while (wait := self.buckets.take(self.quotas, asked)) > 0:
            if waited + wait > LONGEST_WAIT:
                raise RateLimited(f"{self.name}: the limit is used up for {wait:.0f} s more", retry_after=wait)
            self.sleep(wait)
            waited += wait

    def correct(self, name: str, left: float) -> None:
        """Believe the vendor where it says that less is left."""
        for quota in self.quotas:
            if quota.name == name:
                self.buckets.correct(quota, left)

    def pause(self, seconds: float) -> None:
        """Stop everybody of this source for so long: the vendor asked for it."""
        self.buckets.pause(seconds)


class LocalBuckets:
    """Levels in memory, for the threads of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.levels: dict[str, tuple[float, float]] = {}
        self.closed_until = float("-inf")

    def take(self, quotas: Sequence[Quota], costs: Mapping[str, float]) -> float:
        with self.lock:
            now = self.clock()
            if now < self.closed_until:
                return self.closed_until - now
            levels = {quota.name: self._level(quota, now) for quota in quotas}
            wait = 0.0
            for quota in quotas:
                # a request dearer than the whole quota waits for a full bucket and empties it
                cost = min(costs.get(quota.name, 0.0), quota.amount)
                wait = max(wait, (cost - levels[quota.name]) / quota.rate)
            if wait <= _ROUNDING:
                for quota in quotas:
                    self.levels[quota.name] = (levels[quota.name] - costs.get(quota.name, 0.0), now)
                return 0.0
            return wait

    def correct(self, quota: Quota, left: float) -> None:
        with self.lock:
            now = self.clock()
            self.levels[quota.name] = (min(self._level(quota, now), left), now)

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.closed_until = max(self.closed_until, self.clock() + seconds)

    def _level(self, quota: Quota, now: float) -> float:
        level, since = self.levels.get(quota.name, (quota.amount, now))
        return min(quota.amount, level + (now - since) * quota.rate)


# One script does what LocalBuckets does under its lock; the server's clock is everybody's clock.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local closed = tonumber(redis.call('HGET', KEYS[1], 'closed') or '0')
if now < closed then return tostring(closed - now) end
local wait = 0
local levels = {}
for i = 1, #ARGV, 4 do
  local name, amount, rate, cost = ARGV[i], tonumber(ARGV[i+1]), tonumber(ARGV[i+2]), tonumber(ARGV[i+3])
  local level = tonumber(redis.call('HGET', KEYS[1], 'level:' .. name) or amount)
  local since = tonumber(redis.call('HGET', KEYS[1], 'since:' .. name) or now)
  level = math.min(amount, level + (now - since) * rate)
  levels[name] = level
  wait = math.max(wait, (math.min(cost, amount) - level) / rate)
end
if wait <= 1e-6 then
  wait = 0
  for i = 1, #ARGV, 4 do
    redis.call('HSET', KEYS[1], 'level:' .. ARGV[i], string.format('%.6f', levels[ARGV[i]] - ARGV[i+3]))
    redis.call('HSET', KEYS[1], 'since:' .. ARGV[i], string.format('%.6f', now))
  end
  redis.call('EXPIRE', KEYS[1], 172800)
end
return tostring(wait)
"""
_CORRECT: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local name, amount, rate, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local level = tonumber(redis.call('HGET', KEYS[1], 'level:' .. name) or amount)
local since = tonumber(redis.call('HGET', KEYS[1], 'since:' .. name) or now)
level = math.min(amount, level + (now - since) * rate, left)
redis.call('HSET', KEYS[1], 'level:' .. name, string.format('%.6f', level))
redis.call('HSET', KEYS[1], 'since:' .. name, string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 172800)
"""
_PAUSE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local closed = tonumber(redis.call('HGET', KEYS[1], 'closed') or '0')
redis.call('HSET', KEYS[1], 'closed', string.format('%.6f', math.max(closed, now + tonumber(ARGV[1]))))
redis.call('EXPIRE', KEYS[1], 172800)
"""


class RedisBuckets:
    """Levels in Redis, for every worker of a source."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.key = f"dataflow:limits:{name}"

    def take(self, quotas: Sequence[Quota], costs: Mapping[str, float]) -> float:
        arguments: list[str | float] = []
        for quota in quotas:
            arguments += [quota.name, quota.amount, quota.rate, costs.get(quota.name, 0.0)]
        return float(self._run(_TAKE, *arguments))

    def correct(self, quota: Quota, left: float) -> None:
        self._run(_CORRECT, quota.name, quota.amount, quota.rate, left)

    def pause(self, seconds: float) -> None:
        self._run(_PAUSE, seconds)

    def _run(self, script: str, *arguments: str | float) -> Any:
        """Run a script; TransientError where Redis does not: without the limits nobody asks the vendor."""
        from redis import RedisError

        try:
            return self.client.eval(script, 1, self.key, *arguments)
        except RedisError as error:
            raise TransientError(f"the limits in Redis cannot be read: {type(error).__name__}") from error


@cache
def buckets(name: str, redis_url: str = "") -> Buckets:
    """Return the buckets of a source: the same ones for everybody in this process, or behind this Redis."""
    if not redis_url:
        return LocalBuckets()
    import redis

    return RedisBuckets(redis.Redis.from_url(redis_url, socket_timeout=10), name)
