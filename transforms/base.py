"""What a transformer is, and how transformers compose.

A transformer takes `inputs` tables, each the rows of exactly one instrument in time order, and returns one
table. It is pure: the same rows give the same table, and nothing outside is read.
"""

from abc import ABC
from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Final
from typing import final

import pyarrow as pa

from catalog.errors import ConfigError
from transforms.parameters import Parameter
from transforms.parameters import declared
from transforms.spec import TransformSpec
from transforms.spec import text

#: the warm-up of what accumulates from the series' first bar: no number of rows is enough
ANCHORED: Final = None


class BaseTransformer(ABC):
    """Tables in, table out. A subclass with a `name` is offered in the catalog.

    A subclass is a frozen dataclass: its fields are its parameters.
    """

    name: str = ""
    inputs: int = 1

    @classmethod
    def parameters(cls) -> Mapping[str, Parameter]:
        """Return the parameters a spec may give."""
        return declared(cls)

    @property
    def specs(self) -> tuple[TransformSpec, ...]:
        """The steps of this transformer with every parameter filled in."""
        return (TransformSpec(self.name, {name: getattr(self, name) for name in self.parameters()}),)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the indicator values that are the columns after the time; empty for other tables.

        A label is the canonical text of the chain that gives this one value.
        """
        return ()

    @property
    def warmup_timeframe(self) -> str:
        """The timeframe of the rows that `warmup` counts; empty where they are the input's own rows."""
        return ""

    def reads(self, schema: pa.Schema) -> tuple[str, ...]:
        """Names of the columns without which a row counts as none: warm-ups are counted in the others."""
        return ()

    @property
    @abstractmethod
    def warmup(self) -> int | None:
        """Rows needed before the first trustworthy output; ANCHORED (None): all, from the first bar."""

    @abstractmethod
    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the schema of the result; ConfigError lists what the inputs lack."""

    @abstractmethod
    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the result for inputs that `output` has accepted."""

    @final
    def transform(self, *inputs: pa.Table) -> pa.Table:
        """Return the result, whose schema is `output` of the inputs' schemas."""
        if len(inputs) != self.inputs:
            raise ConfigError(f"{text(self.specs)}: {len(inputs)} tables given; takes {self.inputs}")
        self.output(*(table.schema for table in inputs))
        return self.compute(*inputs)


class Chain(BaseTransformer):
    """Transformers one after another; only the first may take several inputs.

    The warm-ups of the steps add up, and one anchored step anchors the chain. Columns of indicator values
    are labelled by the whole chain. `warmup_timeframe` is that of the last resampling: rows before it are finer,
    so counting them as such asks for more than is needed, never for less.
    """

    def __init__(self, steps: Sequence[BaseTransformer]) -> None:
        """Join the steps; ConfigError lists those that cannot follow another."""
        if not steps:
            raise ConfigError("chain is empty; give at least one transformer")
        faults = [
            f"{text(step.specs)} takes {step.inputs} inputs, so it can only be the first step"
            for step in steps[1:]
            if step.inputs != 1
        ]
        if faults:
            raise ConfigError(*faults)
        self.steps: Final = tuple(steps)
        self.inputs = steps[0].inputs

    @property
    def specs(self) -> tuple[TransformSpec, ...]:
        """The steps of all parts."""
        return tuple(spec for step in self.steps for spec in step.specs)

    @property
    def labels(self) -> tuple[str, ...]:
        """The last step's labels, each with the steps before it."""
        before = [spec for step in self.steps[:-1] for spec in step.specs]
        return tuple(" | ".join([*map(str, before), label]) for label in self.steps[-1].labels)

    @property
    def warmup_timeframe(self) -> str:
        """The timeframe of the last step that sets one."""
        return next((step.warmup_timeframe for step in reversed(self.steps) if step.warmup_timeframe), "")

    @property
    def warmup(self) -> int | None:
        """The sum over the steps; anchored if any step is."""
        total = 0
        for step in self.steps:
            if step.warmup is ANCHORED:
                return ANCHORED
            total += step.warmup
        return total

    def reads(self, schema: pa.Schema) -> tuple[str, ...]:
        """Names of the columns that the first step reads."""
        return self.steps[0].reads(schema)

    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the last step's schema."""
        for step in self.steps:
            inputs = (step.output(*inputs),)
        (schema,) = inputs
        if not self.labels:
            return schema
        fields = [pa.field(label, field.type) for label, field in zip(self.labels, list(schema)[1:], strict=True)]
        return pa.schema([schema.field(0), *fields])

    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the last step's table."""
        for step in self.steps:
            inputs = (step.compute(*inputs),)
        (table,) = inputs
        return table.rename_columns([table.column_names[0], *self.labels]) if self.labels else table
