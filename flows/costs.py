"""What jobs will cost, and whether their source may spend it: quotes before, the ledger's sums after."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from django.db.models import Sum
from django.utils import timezone

from catalog.errors import ConfigError
from catalog.models import DataSource
from catalog.models import Fetch
from flows.job import Job
from flows.job import Request
from flows.quotes import Quote
from flows.work import Workshop


def missing(job: Job, kit: Workshop) -> list[Request]:
    """Return the requests that running a job would send."""
    requests = kit.extractor.requests(kit.extractor.resolve(job))
    if job.again:
        return list(requests)
    return [part for request in requests for part in kit.ledger.missing(request)]


def quote(requests: Sequence[Request], kit: Workshop) -> Quote:
    """Return what requests will cost; some vendors are asked for it.

    Raises what the vendor's border raises.
    """
    return sum((kit.extractor.quote(request) for request in requests), Quote(bytes=0))


def month_start(now: datetime) -> datetime:
    """Return the first instant of the calendar month (UTC)."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def spent(source: int) -> Decimal:
    """Return what a source has cost since the month began, in the money of its budget."""
    fetches = Fetch.objects.filter(source=source, fetched_at__gte=month_start(timezone.now()))
    return fetches.aggregate(total=Sum("cost"))["total"] or Decimal(0)


def money_left(source: int) -> Decimal | None:
    """Return what a source may still cost this month; None where it has no budget."""
    budget = DataSource.objects.values_list("monthly_budget", flat=True).get(pk=source)
    return None if budget is None else budget - spent(source)


def check_budget(jobs: Sequence[Job], kit: Workshop) -> None:
    """Refuse jobs of one source that would cost more than is left of its budget; ConfigError has the figures."""
    left = money_left(jobs[0].source.id)
    if left is None:
        return
    needed = sum((quote(missing(job, kit), kit) for job in jobs), Quote(bytes=0))
    if needed.money > max(left, Decimal(0)):
        budget = left + spent(jobs[0].source.id)
        least = "" if needed.exact else "at least "
        raise ConfigError(
            f"source {jobs[0].source.name!r}: this run would cost {least}{money(needed.money)} in {needed.requests:,}"
            f" requests; of the month's budget of {money(budget)} {money(max(left, Decimal(0)))} are left."
            " Ask for less, raise the budget, or run with --allow-cost"
        )


def money(amount: Decimal) -> str:
    """Return an amount with at least two digits after the point, and no more than it needs up to six."""
    text = f"{amount:.6f}".rstrip("0")
    return text + "0" * max(0, 3 - len(text) + text.index("."))
