"""Vendor `files`: price files on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from catalog.schemas import ROW
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.registry import Options


class FilesOptions(Options):
    path: str
    columns: dict[str, str | int] = {}


class FilesExtractor(BaseHistoricalExtractor):
    name = "files"
    label = "Files"
    windowed = False
    Options = FilesOptions

    def requests(self, job: Job) -> Iterator[Request]:
        for path in sorted(self.context.files_roots[0].glob(self.options.path)):
            stat = path.stat()
            wanted = tuple(i for i in job.instruments if any(s.symbol == path.stem for s in i.symbols))
            if wanted:
                yield Request(job, wanted, f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}", str(path))

    def pages(self, request: Request) -> Iterator[Page]:
        def content() -> Iterator[bytes]:
            with Path(request.locator).open("rb") as file:
                while block := file.read(1 << 20):
                    yield block

        yield Page("text/csv", content(), Path(request.locator).name)

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        schema = page.request["schema"]
        with page.open() as content:
            table = pa.csv.read_csv(pa.PythonFile(content))
        table = table.rename_columns([name.lower() for name in table.column_names])
        table = table.append_column("ts_event", pc.cast(table["date"], pa.timestamp("ns", "UTC")))
        table = table.append_column(SYMBOL, pa.repeat(Path(page.manifest.name).stem, len(table)).dictionary_encode())
        table = table.append_column(ROW, pa.array(range(len(table)), pa.int64()))
        yield Batch(schema, table)
