"""Batch jobs: agree, submit once, wait, fetch files that go on where they broke off.

Money is spent when a job is submitted: a job that an earlier attempt submitted is found again instead of bought again.
"""

import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import Final

from catalog.errors import PermanentError
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.schemas import schema as schema_called
from flows.databento_api.figures import terms
from flows.databento_api.landed import facts
from flows.databento_api.symbols import Dataset
from flows.landing import LandedPage
from flows.landing import Page
from flows.web import Call
from flows.web import Web
from flows.web import continued

#: how much later our clock may be than the vendor's, when submitted jobs are looked for
_SKEW: Final = timedelta(hours=1)
_FORM: Final = ("dataset", "schema", "stype_in", "stype_out", "encoding", "compression", "split_duration")


@dataclass(frozen=True, slots=True)
class Jobs:
    """The batch jobs of a dataset, each landed as its terms, its number and its files.

    `poll` are seconds between two looks at a job, `patience` those that one run waits for it, `price` what a
    submission costs besides.
    """

    dataset: Dataset
    auth: tuple[str, str] = field(repr=False)
    poll: float
    patience: float
    price: Decimal

    def pages(self, call: Call, landed: Sequence[LandedPage]) -> Iterator[Page]:
        """Yield a job's terms, then its number, then its files; each lands before the next step is taken."""
        kinds = {page.manifest.facts["kind"]: page.manifest.facts for page in landed}
        agreed, job = kinds.get("terms"), kinds.get("job", {}).get("job", "")
        if agreed is None:
            found = terms(self.dataset, call)
            if found is None:
                return
            agreed = {**facts(call, "terms"), **found.facts, "form": _submission(found.call)}
            yield Page("application/json", [json.dumps(agreed).encode()], facts=agreed)
        elif agreed["records"] and not job:
            # an attempt that died here may have been heard
            job = self._submitted(agreed)
        if not agreed["records"]:
            # symbols that do not exist were all there was to say
            return
        if "job" not in kinds:
            job = job or self._submit(agreed["form"])
            cost = Decimal(agreed["cost"]) + self.price
            said = {**facts(call, "job"), "job": job}
            yield Page("application/json", [json.dumps({"id": job}).encode()], facts=said, requests=1, cost=cost)
        self._wait(job)
        have = {page.manifest.name for page in landed}
        for file in self._files(job):
            if file.name not in have:
                said = {**facts(call, "file"), "job": job}
                yield Page("application/x-dbn", self._download(file), file.name, facts=said, compressed=True)

    # -- a job ----------------------------------------------------------------------------------------------------

    def _submit(self, form: Mapping[str, str]) -> str:
        call = Call("v0/batch.submit_job", form=form, costs={"submissions": 1})
        return self.dataset.client.said(call, lambda said: str(said["id"]))

    def _submitted(self, agreed: Mapping[str, Any]) -> str:
        """Return the number of the job that asks exactly this and was submitted since; empty where there is none."""
        since = datetime.fromisoformat(agreed["received"]) - _SKEW
        call = Call("v0/batch.list_jobs", {"states": "queued,processing,done", "since": since.isoformat()})
        numbers = self.dataset.client.said(call, lambda said: [str(job["id"]) for job in said])
        return next((number for number in numbers if _same(self._details(number), agreed["form"])), "")

    def _details(self, job: str) -> dict[str, Any]:
        call = Call("v0/batch.get_job_details", {"job_id": job})
        return self.dataset.client.said(call, lambda said: {**said, "state": said["state"]})

    def _wait(self, job: str) -> None:
        name, waited = self.dataset.client.web.name, 0.0
        while (state := self._details(job)["state"]) != "done":
            if state == "expired":
                raise PermanentError(f"{name}: the files of batch job {job} are gone; run with --again")
            if waited >= self.patience:
                # longer than any patience: the next run goes on
                raise TransientError(
                    f"{name}: batch job {job} is {state}; run again later, it is paid", retry_after=3601
                )
            self.dataset.client.web.limiter.sleep(self.poll)
            waited += self.poll

    # -- its files ------------------------------------------------------------------------------------------------

    def _files(self, job: str) -> list["_File"]:
        call = Call("v0/batch.list_files", {"job_id": job})
        return self.dataset.client.said(call, _files)

    def _download(self, file: "_File") -> Iterator[bytes]:
        """Yield a file, going on where the connection broke; raises TransientError where its checksum is another."""
        client = self.dataset.client
        if file.kind != "sha256":
            raise SchemaMismatch(
                f"{client.web.name}: file {file.name} has a checksum of kind {file.kind!r}, not sha256"
            )
        call = continued(Call("", accepts="*/*", streamed=True), file.url, client.web.base_url)
        digest, size, attempt = hashlib.sha256(), 0, 0
        while True:
            before = size
            try:
                with (self._from(size) if size else client.web).opened(call) as (response, blocks):
                    # a server that does not know ranges sends what we have once more
                    skip = size if response.status_code != 206 else 0
                    for block in blocks:
                        rest = block[skip:]
                        skip -= len(block) - len(rest)
                        digest.update(rest)
                        size += len(rest)
                        if rest:
                            yield rest
                break
            except TransientError as error:
                attempt = 1 if size > before else attempt + 1
                client.pause(attempt, error)
        if digest.hexdigest() != file.checksum:
            raise TransientError(f"{client.web.name}: file {file.name} has another checksum than the vendor says")

    def _from(self, size: int) -> Web:
        """Return a way to the vendor that asks for the rest of a file: a call cannot carry a header of its own."""
        web = self.dataset.client.web
        return Web(
            web.name,
            web.base_url,
            web.limiter,
            web.bounds,
            headers={"range": f"bytes={size}-"},
            auth=self.auth,
            secrets=web.secrets,
            refusals=[(pattern.pattern, kind) for pattern, kind in web.refusals],
        )


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    url: str
    kind: str
    checksum: str


def _files(said: Any) -> list[_File]:
    """Return a job's files of records by name; what supports them stays where it is."""
    files = []
    for file in said:
        if (name := str(file["filename"])).endswith(".dbn.zst"):
            kind, _, checksum = str(file["hash"]).partition(":")
            files.append(_File(name, file["urls"]["https"], kind, checksum))
    return sorted(files, key=lambda file: file.name)


def _submission(call: Call) -> dict[str, str]:
    form = dict(call.form or {})
    duration = "day" if schema_called(form["schema"]).nanoseconds else "none"
    return {**form, "delivery": "download", "split_duration": duration}


def _same(details: Mapping[str, Any], form: Mapping[str, str]) -> bool:
    """Whether a job asks what a form does."""
    if any(str(details.get(name)) != form[name] for name in _FORM):
        return False
    symbols = details.get("symbols")
    have = symbols.split(",") if isinstance(symbols, str) else list(symbols or [])
    try:
        times = [datetime.fromisoformat(str(details[name])) for name in ("start", "end")]
    except (KeyError, ValueError):
        return False
    return set(have) == set(form["symbols"].split(",")) and times == [
        datetime.fromisoformat(form[name]) for name in ("start", "end")
    ]
