"""The contract for every kind of the registry.

Kinds that cannot be read in the product are read here as their consumers do, so that the contract holds for them too.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from catalog.schemas import DECIMAL
from catalog.schemas import Schema
from catalog.schemas.decimals import to_floats
from flows.exports.partitions import moment
from flows.job import EARLIEST
from flows.sinks.base import ReadableSink
from flows.sinks.base import Target
from flows.sinks.redis import RedisSink
from flows.sinks.redis import range_
from tests.flows.sinks.rows import IDS

pytest.register_assert_rewrite("tests.contract_sink")

from tests.contract_sink import Opened  # noqa: E402 (after the line above, which it is for)
from tests.contract_sink import SinkContract  # noqa: E402 (see above)


class ReadRedis(RedisSink, ReadableSink):
    """The kind `redis` with a sorted set, which holds every row, read as consumers read it."""

    client: redis.Redis

    def read(
        self,
        schema: Schema,
        instruments: Sequence[str],
        start: datetime,
        end: datetime,
        *,
        exact: bool = False,
        columns: Sequence[str] = (),
    ) -> pa.Table:
        ordered = sorted(instruments, key=self.target.ids.__getitem__)
        tables = [range_(self.client, f"{name}:{schema.name}", start, end) for name in ordered]
        found = pa.concat_tables([table for table in tables if table.num_rows] or [schema.arrow.empty_table()])
        found = found.unify_dictionaries()
        if not exact:
            arrays = [to_floats(column) if column.type == DECIMAL else column for column in found.columns]
            found = pa.table(arrays, names=found.column_names)
        return found.select([name for name in found.column_names if not columns or name in {*schema.key, *columns}])

    def tail(self, schema: Schema, instrument: str, before: datetime, rows: int) -> datetime | None:
        times = self._times(schema, instrument, EARLIEST, before)
        if not rows:
            return before
        return times[-rows:][0] if times else None

    def extents(
        self, schema: Schema, instruments: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, tuple[datetime, datetime, int]]:
        found = {name: self._times(schema, name, start, end) for name in instruments}
        return {name: (times[0], times[-1], len(times)) for name, times in found.items() if times}

    def delete(self, schema: Schema, instrument: str, start: datetime, end: datetime) -> int:
        pytest.skip("this kind deletes nothing")

    def _times(self, schema: Schema, instrument: str, start: datetime, end: datetime) -> list[datetime]:
        column = self.read(schema, [instrument], start, end, exact=True)[schema.time]
        return [moment(number) for number in column.cast(pa.int64()).to_pylist()]


@dataclass
class OpenedRedis(Opened):
    """Redis with the options of a case, on this test's database."""

    url: str = ""

    def __call__(self, ids: Mapping[str, int] = IDS) -> ReadableSink:
        made = ReadRedis(self.options | {"sorted_set": True}, Target("contract", ids, environ={"REDIS_URL": self.url}))
        made.client = redis.Redis.from_url(self.url)
        return made


class TestEverySink(SinkContract):
    """The contract, with every kind of the registry."""

    @pytest.fixture
    def opened(
        self,
        case: tuple[str, dict[str, Any]],
        database: str,
        db: None,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> Opened:
        kind, options = case
        if kind == "redis":
            return OpenedRedis(kind, options, tmp_path, request.getfixturevalue("redis_url"))
        return Opened(kind, options, tmp_path / "exports")
