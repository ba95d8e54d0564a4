"""The error tree: a class says what the caller should do.

    DataflowError
    ├── ConfigError            fix the catalog, a file or a setting; carries every fault found
    ├── TransientError         try again; `retry_after` is a number of seconds, or None
    │   └── RateLimited        the vendor asked everybody of this source to wait
    └── PermanentError         trying again gives the same answer
        ├── AuthFailed         the credential was refused
        ├── NotEntitled        the credential is good, the data are not in the subscription
        ├── UnknownSymbol      the vendor does not know what was asked for
        ├── OtherQuestion      what has landed answers another question than is asked now
        ├── Damaged            bytes that cannot be what they claim to be (cut, wrong checksum)
        └── SchemaMismatch     the data have another shape than the schema declares

Exceptions of vendors and of libraries are translated to these once, where they enter.
A bad *row* is never an exception: it is data with a reason (quarantine).
"""

from collections.abc import Iterable
from collections.abc import Sequence


class DataflowError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(DataflowError):
    """The catalog, an imported file or a setting is wrong; `faults` lists all that was found."""

    def __init__(self, *faults: str) -> None:
        self.faults: Sequence[str] = faults
        super().__init__("\n".join(faults))


class TransientError(DataflowError):
    """Trying again may work. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RateLimited(TransientError):
    """The vendor's limit was hit; nobody of this source asks again before `retry_after`."""


class PermanentError(DataflowError):
    """Trying again gives the same answer."""


class AuthFailed(PermanentError):
    """The vendor refused the credential."""


class NotEntitled(PermanentError):
    """The subscription does not cover what was asked."""


class UnknownSymbol(PermanentError):
    """The vendor does not know the symbol; other symbols are not concerned."""


class OtherQuestion(PermanentError):
    """Landed pages answer another question than is asked now: options have changed; the fetch is begun anew."""


class Damaged(PermanentError):
    """A file or page is cut short or is not what it claims to be."""


class SchemaMismatch(PermanentError):
    """The data do not have the columns or types that the schema declares."""


def unknown(thing: str, name: object, accepted: Iterable[object]) -> str:
    """Return the one sentence used for every unknown name: the thing, the value, what is accepted."""
    choices = ", ".join(sorted(str(choice) for choice in accepted)) or "none"
    return f"{thing} {str(name)!r} is unknown; have: {choices}"
