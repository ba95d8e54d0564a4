"""What is known of an asset beside its market: figures, filings, news, events; and values of other things."""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas.base import DECIMAL
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Check
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.rules import DAY
from catalog.schemas.rules import event
from catalog.schemas.rules import not_negative

# headlines, addresses and summaries; PostgreSQL would take 1 GB, a row of a table should not
_PROSE: Final = 20_000


def _ratio(column: str) -> Check:
    return Check(
        f"{column} > 0",
        "A split turns a positive number of shares into a positive number of shares.",
        (column,),
        lambda table: pc.greater(table[column], pa.scalar(0, DECIMAL)),
    )


DECLARED: Final = (
    Schema(
        name="fundamentals",
        doc="Figures of a company or economy, as filed: one row for each period and filing, restatements beside them.",
        columns=(
            event("Last day of the period, or the day the figure is of, at 00:00Z."),
            Column("concept", TEXT, "Name of the figure, e.g. us-gaap:Revenues."),
            Column("unit", TEXT, "Unit of the value, e.g. USD, shares; empty where there is none.", absent=""),
            Column("period_start", TEXT, "First day of the period (ISO); empty for figures of one day.", absent=""),
            Column("filing", TEXT, "Number of the filing it stands in; empty where unknown.", absent=""),
            Column("filed", NANOSECONDS, "When it became known.", null=True),
            Column("value", DECIMAL, "The figure where it is a number.", null=True),
            Column("value_text", TEXT, "The figure where it is none.", null=True, longest=_PROSE),
            Column("form", TEXT, "Kind of the filing, e.g. 10-K.", null=True),
            Column("fiscal_year", INT32, "The filer's fiscal year.", null=True),
            Column("fiscal_period", TEXT, "The filer's fiscal period, e.g. Q1, FY.", null=True),
        ),
        identity=("concept", "unit", "period_start", "filing"),
        chunk=3650 * DAY,
    ),
    Schema(
        name="filings",
        doc="Documents filed with an authority.",
        columns=(
            event("When the authority accepted the filing."),
            Column("filing", TEXT, "Number of the filing."),
            Column("form", TEXT, "Kind of the filing, e.g. 8-K."),
            Column("filed", NANOSECONDS, "Date of filing at 00:00Z.", null=True),
            Column("period_end", NANOSECONDS, "Last day of the period it reports, at 00:00Z.", null=True),
            Column("items", TEXT, "Items it reports, separated by commas.", null=True),
            Column("document", TEXT, "File name of its main document.", null=True),
            Column("description", TEXT, "What the main document is.", null=True, longest=_PROSE),
            Column("size", INT64, "Bytes of the filing.", null=True),
        ),
        identity=("filing",),
        chunk=3650 * DAY,
        checks=(not_negative("size"),),
    ),
    Schema(
        name="news",
        doc="Articles about an asset.",
        columns=(
            event("When it was published."),
            Column("article_id", TEXT, "The vendor's identifier of the article."),
            Column("title", TEXT, "Headline.", longest=_PROSE),
            Column("summary", TEXT, "Summary or first lines.", null=True, longest=_PROSE),
            Column("publisher", TEXT, "Who published it.", null=True),
            Column("author", TEXT, "Who wrote it.", null=True),
            Column("url", TEXT, "Where it can be read.", null=True, longest=_PROSE),
            Column("symbols", TEXT, "Every symbol the article names, separated by commas.", null=True, longest=_PROSE),
        ),
        identity=("article_id",),
        chunk=365 * DAY,
    ),
    Schema(
        name="corporate_actions",
        doc="Splits, dividends and what else changes a holding without a trade.",
        columns=(
            event("Ex-date at 00:00Z."),
            Column("kind", TEXT, "split, dividend, capital_gain, spin_off, merger or the vendor's word."),
            Column("action_id", TEXT, "The vendor's identifier; empty where there is none.", absent=""),
            Column("ratio_from", DECIMAL, "Split: so many old shares …", null=True),
            Column("ratio_to", DECIMAL, "… become so many new ones.", null=True),
            Column("amount", DECIMAL, "Cash paid for each share.", null=True),
            Column("currency", TEXT, "Currency of the amount.", null=True),
            Column("frequency", TEXT, "Payments a year, or the vendor's word.", null=True),
            Column("declared", NANOSECONDS, "Date of announcement at 00:00Z.", null=True),
            Column("record_date", NANOSECONDS, "Who holds it on this day is entitled, at 00:00Z.", null=True),
            Column("payable", NANOSECONDS, "Date of payment at 00:00Z.", null=True),
            Column("description", TEXT, "The vendor's words.", null=True, longest=_PROSE),
        ),
        identity=("kind", "action_id"),
        announced=True,
        chunk=3650 * DAY,
        checks=(_ratio("ratio_from"), _ratio("ratio_to")),
    ),
    Schema(
        name="market_cap",
        doc="Market value of an asset with its price and the volume of the last 24 hours.",
        columns=(
            event("When the values were taken."),
            Column("currency", TEXT, "Currency of the values, in the vendor's spelling.", absent=""),
            Column("market_cap", DECIMAL, "Price × units in circulation.", null=True),
            Column("price", DECIMAL, "Price at that time.", null=True),
            Column("volume_24h", DECIMAL, "Value traded in the 24 hours before.", null=True),
            Column("circulating_supply", DECIMAL, "Units in circulation.", null=True),
        ),
        identity=("currency",),
        chunk=365 * DAY,
        checks=(not_negative("market_cap"), not_negative("volume_24h"), not_negative("circulating_supply")),
    ),
    Schema(
        name="glucose",
        doc="Glucose readings of a sensor: a series that is no market.",
        columns=(
            event("When the sensor measured."),
            Column("device", TEXT, "The sensor or uploader; empty where unknown.", absent=""),
            Column("kind", TEXT, "sgv sensor, mbg finger stick, cal calibration.", absent=""),
            Column("mg_dl", DECIMAL, "Glucose in mg/dL.", null=True),
            Column("trend", TEXT, "Direction of change, e.g. Flat, FortyFiveUp.", null=True),
            Column("delta", DECIMAL, "Change since the reading before, in mg/dL.", null=True),
            Column("noise", INT32, "The sensor's noise level.", null=True),
        ),
        identity=("device", "kind"),
        chunk=365 * DAY,
        checks=(not_negative("mg_dl"),),
    ),
    Schema(
        name="indicators",
        doc="Stored values of indicators, one row for each bar and indicator.",
        columns=(
            event("Time of the bar the value belongs to."),
            Column("indicator_id", INT32, "Row of the catalog's indicator list."),
            Column("value", FLOAT64, "The value; bars inside the warm-up have no row."),
        ),
        identity=("indicator_id",),
        chunk=365 * DAY,
    ),
)
