"""Streams that are counted while they pass: a cut stream decodes without an error, and must not land."""

import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal

from catalog.errors import Damaged
from catalog.errors import TransientError
from flows.databento_api.figures import Terms
from flows.databento_api.figures import terms
from flows.databento_api.landed import facts
from flows.databento_api.symbols import Dataset
from flows.formats import dbn
from flows.landing import Page
from flows.web import Call
from flows.web import Web


def pages(dataset: Dataset, call: Call, price: Decimal, observe: Callable[[Mapping[str, str]], None]) -> Iterator[Page]:
    """Yield the stream that answers a call, which is sent, and paid, when its bytes are drawn; none for no records.

    `price` is what it costs besides the vendor's cost; `observe` is shown the headers of its answer.
    """
    found = terms(dataset, call)
    if found:
        said = {**facts(call, "stream"), **found.facts}
        content, cost = _content(dataset.client.web, found, observe), found.cost + price
        yield Page("application/x-dbn", content, facts=said, compressed=True, requests=1, cost=cost)


def _content(web: Web, found: Terms, observe: Callable[[Mapping[str, str]], None]) -> Iterator[bytes]:
    with web.opened(found.call) as (response, blocks):
        observe({name.lower(): value for name, value in response.headers.items()})
        yield from _counted(blocks, found.records, web.name)


def _counted(blocks: Iterable[bytes], records: int, name: str) -> Iterator[bytes]:
    """Yield the blocks of a DBN stream as they come.

    Raises TransientError where they end too early; Damaged where the whole has other records than were announced.
    """
    with _counting(name) as (feed, count):
        for block in blocks:
            feed(block)
            yield block
        have = count()
    if have != records:
        # asking again costs again, and whole answers that differ will differ again
        raise Damaged(
            f"{name}: the answer is whole and has {have:,} records, where get_record_count said {records:,};"
            " nothing is kept"
        )


@contextmanager
def _counting(name: str) -> Iterator[tuple[Callable[[bytes], None], Callable[[], int]]]:
    """Count the records of a DBN stream that passes by: a function that takes blocks, one that returns the count.

    A thread reads what is fed through a pipe, so that little is held. Both raise TransientError where the bytes are
    none or end too early.
    """
    reading, writing = os.pipe()

    def read() -> int:
        with os.fdopen(reading, "rb") as stream:
            return dbn.count(stream, name)

    with ThreadPoolExecutor(1, "dbn-count") as pool:
        counting = pool.submit(read)

        def result() -> int:
            pipe.close()
            try:
                return counting.result()
            except Damaged as error:
                raise TransientError(str(error)) from None

        def feed(block: bytes) -> None:
            left = memoryview(block)
            try:
                while left:
                    left = left[pipe.write(left) :]
            except BrokenPipeError:
                # the reader has seen enough
                result()
                raise Damaged(f"{name}: bytes follow the end of the stream") from None

        with os.fdopen(writing, "wb", buffering=0) as pipe:
            yield feed, result
