"""Token buckets: in memory and in Redis they decide alike, and neither lets more through than the vendor allows."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.limits import Limiter
from flows.limits import LocalBuckets
from flows.limits import Quota
from flows.limits import RedisBuckets
from flows.limits import buckets


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter(clock: Clock, *quotas: Quota) -> Limiter:
    return Limiter("source 'x'", quotas, LocalBuckets(clock), clock.sleep)


def test_a_full_bucket_lets_a_burst_through_and_then_paces(clock: Clock) -> None:
    made = limiter(clock, Quota("requests", 10, 60))
    for _ in range(10):
        made.take({})
    assert clock.now == 1000
    made.take({})
    assert clock.now == pytest.approx(1006)


def test_weights_are_counted_beside_requests(clock: Clock) -> None:
    made = limiter(clock, Quota("requests", 100, 60), Quota("weight", 60, 60))
    made.take({"weight": 50})
    made.take({"weight": 50})
    assert clock.now == pytest.approx(1040)


def test_what_costs_more_than_the_quota_waits_for_a_full_bucket(clock: Clock) -> None:
    made = limiter(clock, Quota("weight", 60, 60))
    made.take({"weight": 10})
    made.take({"weight": 90})
    assert clock.now == pytest.approx(1010)


def test_the_vendor_knows_better_what_is_left(clock: Clock) -> None:
    made = limiter(clock, Quota("weight", 60, 60))
    made.correct("weight", 5)
    made.correct("weight", 50)
    made.take({"weight": 10})
    assert clock.now == pytest.approx(1005)


def test_a_pause_stops_everybody(clock: Clock) -> None:
    shared = LocalBuckets(clock)
    first, second = (Limiter("x", (), shared, clock.sleep) for _ in range(2))
    first.pause(30)
    first.pause(10)
    second.take({})
    assert clock.now == pytest.approx(1030)


def test_a_long_wait_is_an_answer(clock: Clock) -> None:
    made = limiter(clock, Quota("requests", 25, 86_400))
    for _ in range(25):
        made.take({})
    with pytest.raises(RateLimited, match="used up for 3456 s") as limited:
        made.take({})
    assert limited.value.retry_after == pytest.approx(3456)
    assert clock.now == 1000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 30)), max_size=60), st.floats(1, 50), st.floats(1, 100))
def test_never_more_than_a_burst_and_the_rate(asked: list[tuple[float, float]], amount: float, seconds: float) -> None:
    clock = Clock()
    made = limiter(clock, Quota("weight", amount, seconds))
    spent = 0.0
    for pause, cost in asked:
        clock.now += pause
        try:
            made.take({"weight": min(cost, amount)})
        except RateLimited:
            continue
        spent += min(cost, amount)
        assert spent <= amount + (clock.now - 1000) * amount / seconds + 1e-6


def test_threads_of_a_process_share_a_source() -> None:
    assert buckets("7:threads") is buckets("7:threads")
    assert buckets("7:threads") is not buckets("8:threads")
    shared = LocalBuckets()
    quota = (Quota("requests", 40, 3600),)
    passed: list[float] = []

    def work() -> None:
        for _ in range(20):
            if shared.take(quota, {"requests": 1}) <= 0:
                passed.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 40


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.mark.services
def test_redis_shares_them_between_processes(client: Any) -> None:
    first, second = RedisBuckets(client, "3:x"), RedisBuckets(client, "3:x")
    quotas = (Quota("requests", 2, 3600), Quota("weight", 100, 3600))
    assert first.take(quotas, {"requests": 1, "weight": 10}) <= 0
    assert second.take(quotas, {"requests": 1}) <= 0
    assert first.take(quotas, {"requests": 1}) == pytest.approx(1800, abs=2)
    # a request that does not fit takes nothing from any bucket
    second.correct(quotas[1], 50)
    assert second.take((quotas[1],), {"weight": 60}) == pytest.approx(360, abs=2)
    assert second.take((quotas[1],), {"weight": 50}) <= 0
    first.pause(100)
    first.pause(10)
    assert second.take((), {}) == pytest.approx(100, abs=2)
    assert client.ttl("dataflow:limits:3:x") > 86_400


@pytest.mark.services
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_redis_and_memory_decide_alike(costs: list[int]) -> None:
    import os

    from tests.conftest import REDIS

    url = os.environ.get(REDIS)
    if not url:
        pytest.skip("no Redis")
    quota = (Quota("weight", 100, 1e9),)
    with redis.Redis.from_url(url, db=15) as client:
        client.delete("dataflow:limits:alike")
        remote, local = RedisBuckets(client, "alike"), LocalBuckets()
        for cost in costs:
            assert (remote.take(quota, {"weight": cost}) > 1) == (local.take(quota, {"weight": cost}) > 1)


def test_without_redis_nobody_asks() -> None:
    shared = buckets("9:gone", "redis://:s3cret@127.0.0.1:9/0")
    with pytest.raises(TransientError, match="limits in Redis cannot be read: ConnectionError"):
        shared.take((Quota("requests", 1, 1),), {"requests": 1})
