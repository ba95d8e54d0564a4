"""What an indicator is: a function from columns of one instrument's bars to one float64 per bar.

The columns it reads are the parameters of the function without a default; those with one are the
indicator's parameters. `warmup` tells from the parameters how many bars come before the first value that
further history would change by less than 1e-9 of the indicator's magnitude.

Rules, the same for all:

- A bar in which a needed column is null or not finite counts as no bar: its own value is null, and windows
  go over it as they go over a bar that was never made.
- Values inside the warm-up are null, and so is what has no value: an infinite one, and 0/0, such as the
  RSI of a market that has not moved through a whole warm-up (`ta` says 100).
- Later bars change nothing. More history turns nulls into values, and changes no value by more than is
  promised above; the promise is for a market that moves now and then within the warm-up.
"""

import inspect
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.base import ANCHORED
from transforms.base import BaseTransformer
from transforms.columns import TIME
from transforms.columns import Floats
from transforms.columns import floats
from transforms.columns import require
from transforms.columns import require_order
from transforms.columns import sole
from transforms.parameters import Parameter
from transforms.parameters import declared
from transforms.spec import TransformSpec
from transforms.spec import Value

Rule = Callable[..., int] | None
#: values computed from some bar on, one of them, and what that one is from the first bar → all from the first bar
Resume = Callable[[Floats, float, float], Floats]


@dataclass(frozen=True, slots=True)
class Indicator:
    """A function with all that its signature says; `rule` gives the warm-up, None: anchored.

    `ratio` marks a quotient of averages of changes: 0/0 once nothing has changed through a whole warm-up,
    whatever rounding makes of it. `resume` tells how an anchored indicator goes on from a value that is known.
    """

    name: str
    doc: str
    inputs: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    function: Callable[..., Any]
    rule: Rule
    ratio: bool = False
    resume: Resume | None = None

    @property
    def anchored(self) -> bool:
        """Whether it accumulates from the series' first bar."""
        return self.rule is ANCHORED

    def warmup(self, parameters: Mapping[str, Value]) -> int | None:
        """Return the number of bars before the first value, None where anchored."""
        if self.rule is ANCHORED:
            return ANCHORED
        accepted = inspect.signature(self.rule).parameters
        everything = any(found.kind is found.VAR_KEYWORD for found in accepted.values())
        return self.rule(**{name: value for name, value in parameters.items() if everything or name in accepted})

    def compute(self, columns: Mapping[str, Floats], parameters: Mapping[str, Value]) -> Floats:
        """Return one value per bar for complete columns, NaN where there is none."""
        import pandas as pd

        (rows,) = {column.size for column in columns.values()}
        warmup = self.warmup(parameters) or 0
        if rows <= warmup:
            return np.full(rows, np.nan)
        series = {name: pd.Series(column) for name, column in columns.items()}
        # 0/0 and logarithms of negative prices are nulls here, not news
        with np.errstate(all="ignore"):
            found = np.array(self.function(**series, **parameters), dtype=np.float64)
        found[:warmup] = np.nan
        found[~np.isfinite(found)] = np.nan
        if self.ratio:
            found[_unchanged(columns) >= warmup] = np.nan
        return found


def _unchanged(columns: Mapping[str, Floats]) -> npt.NDArray[np.int64]:
    """Return for each bar how many bars ago a column last changed."""
    changed = np.logical_or.reduce([np.diff(column, prepend=column[:1]) != 0 for column in columns.values()])
    rows = np.arange(changed.size)
    return rows - np.maximum.accumulate(np.where(changed, rows, 0))


def indicator(*, warmup: Rule, resume: Resume | None = None) -> Callable[[Callable[..., Any]], Indicator]:
    """Make an indicator of a function of pandas Series; its name, docstring and signature are used.

    `warmup` is a function of (some of) the parameters, or ANCHORED; then `resume` spares reading all bars anew.
    """

    def make(function: Callable[..., Any]) -> Indicator:
        return adapt(function.__name__, function, warmup, resume=resume)

    return make


def adapt(
    name: str,
    function: Callable[..., Any],
    rule: Rule,
    *,
    ratio: bool = False,
    resume: Resume | None = None,
    fractions: Container[str] = (),
    hidden: Container[str] = (),
) -> Indicator:
    """Return the indicator that a function is, by its signature (see `declared`)."""
    found = declared(function, fractions=fractions, hidden=hidden)
    return Indicator(
        name=name,
        doc=(inspect.getdoc(function) or "").partition("\n")[0],
        inputs=tuple(column for column, parameter in found.items() if parameter.required),
        parameters={key: parameter for key, parameter in found.items() if not parameter.required},
        function=function,
        rule=rule,
        ratio=ratio,
        resume=resume,
    )


def canonical(name: str, parameters: Mapping[str, Value]) -> TransformSpec:
    """Return the spec that names all parameters but those that are None, which say nothing."""
    return TransformSpec(name, {key: value for key, value in parameters.items() if value is not None})


@dataclass(frozen=True, slots=True)
class BoundIndicator:
    """One indicator with its parameters filled in: one column of values."""

    indicator: Indicator
    parameters: Mapping[str, Value]

    @property
    def spec(self) -> TransformSpec:
        """The canonical spec of this one value, every parameter filled in; its text is the column's label."""
        return canonical(self.indicator.name, self.parameters)

    @property
    def warmup(self) -> int | None:
        """Bars before the first value, None where anchored."""
        return self.indicator.warmup(self.parameters)

    def sources(self, schema: pa.Schema) -> dict[str, str]:
        """Return the table's column for each input.

        An indicator of one input reads the only column of a table that has just one besides the time,
        whatever its name: so `rsi | sma` and `select(column='volume') | sma` mean what they say.
        """
        (first, *more) = self.indicator.inputs
        only = sole(schema)
        if only and not more and first not in schema.names:
            return {first: only}
        return {name: name for name in self.indicator.inputs}

    def compute(self, table: pa.Table) -> pa.Array:
        """Return the values for the rows of a table."""
        columns = {name: floats(table[source]) for name, source in self.sources(table.schema).items()}
        whole = np.logical_and.reduce([np.isfinite(column) for column in columns.values()])
        values = np.full(table.num_rows, np.nan)
        values[whole] = self.indicator.compute(
            {name: column[whole] for name, column in columns.items()}, self.parameters
        )
        return pa.array(values, mask=np.isnan(values))


@dataclass(frozen=True, slots=True)
class IndicatorValues(BaseTransformer):
    """One instrument's bars in time order to `[ts_event, values…]`, row for row."""

    spec: TransformSpec
    columns: tuple[BoundIndicator, ...]

    @property
    def specs(self) -> tuple[TransformSpec, ...]:
        """The one step; an alias of several values keeps its name."""
        return (self.spec,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The canonical text of each value."""
        return tuple(str(column.spec) for column in self.columns)

    @property
    def warmup(self) -> int | None:
        """The longest of the values'; anchored if one is."""
        warmups = [column.warmup for column in self.columns]
        known = [warmup for warmup in warmups if warmup is not ANCHORED]
        return max(known) if len(known) == len(warmups) else ANCHORED

    def reads(self, schema: pa.Schema) -> tuple[str, ...]:
        """Names of the columns that some value is computed from."""
        return tuple({source: None for column in self.columns for source in column.sources(schema).values()})

    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the time and one float64 per value."""
        (schema,) = inputs
        require(str(self.spec), schema, self.reads(schema))
        return pa.schema([schema.field(TIME), *(pa.field(label, pa.float64()) for label in self.labels)])

    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the values, null where there is none."""
        (table,) = inputs
        require_order(str(self.spec), table, distinct=True)
        arrays = [table[TIME], *(column.compute(table) for column in self.columns)]
        return pa.table(arrays, schema=self.output(table.schema))
