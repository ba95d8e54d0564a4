"""The pipeline runs in a bare Python: a job, a landing, a ledger in memory; no Django, no Prefect."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import sys
from pathlib import Path

import pyarrow as pa

from catalog.keys import InstrumentName
from catalog.schemas.base import Counts
from flows import registry
from flows.extractors.base import Context
from flows.job import InstrumentFacts, Job, RouteFacts, Rule, SourceFacts, SymbolInterval
from flows.landing import Landing
from flows.memory import MemoryLedger
from flows.pipeline import run
from flows.work import Workshop
from flows.sinks.base import Sink, Target

root = Path(sys.argv[1])
tables = []


class Shelf(Sink):
    name = "shelf"
    label = "Shelf"

    def write(self, schema, table, *, replace=True):
        tables.append(table)
        return Counts(new=table.num_rows)


source = SourceFacts(1, "prices", "files", {"path": "*.csv"})
instrument = InstrumentFacts(1, InstrumentName("prices", "equity", "AAPL"), (SymbolInterval("AAPL"),))
route = RouteFacts(1, "shelf", "shelf", {}, (Rule(frozenset({1})),))
job = Job(source, "ohlcv-1d", (instrument,), (route,))
ledger = MemoryLedger()
extractor = registry.extractor("files")(source, Context((root / "data",)))
kit = Workshop(extractor, Landing(root / "landing"), ledger, lambda route, ids: Shelf({}, Target("shelf")))

first, second = run(job, kit), run(job, kit)
assert first.errors == [], first.errors
assert (first.fetches, first.tallies["shelf"].new, first.tallies["shelf"].quarantined) == (1, 2, 1), first
assert (second.fetches, second.skipped) == (0, 1)
assert pa.concat_tables(tables)["close"].to_pylist()[0] == 10
assert [reason for _, reason, _ in ledger.quarantined.values()] == ["close is not a number: close='x'"]
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"django", "prefect", "databento", "ta"}, loaded & {"django", "prefect", "databento", "ta"}
print("done")
"""


def test_pipeline_runs_without_django_and_prefect(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/AAPL.csv").write_text(
        "Date,Open,High,Low,Close,Volume\n2024-01-02,10,11,9,10,5\n2024-01-03,10,11,9,x,5\n2024-01-04,10,11,9,10,5\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


def test_every_vendor_and_kind_loads_with_every_sdk_blocked() -> None:
    script = """
import sys
for sdk in ("databento", "databento_dbn", "blpapi", "yfinance", "alpaca", "massive"):
    sys.modules[sdk] = None
from flows import registry
for plugin in [*registry.extractors().values(), *registry.sinks().values()]:
    assert plugin.name and plugin.label and plugin.Options.model_json_schema()
print(sorted(registry.extractors()), sorted(registry.sinks()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "files" in done.stdout, done.stderr
