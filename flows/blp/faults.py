"""Bloomberg's errors, translated once.

Answers carry `{source, code, category, message, subcategory}`, admin messages a `reason` with `errorCode` and
`description` instead (BLPAPI Core Developer Guide, "Error codes"). The category decides, the words are kept.
"""

from collections.abc import Mapping
from typing import Any
from typing import Final

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol

#: messages that end a session or say that it cannot be had
SESSION_ENDED: Final = ("SessionStartupFailure", "SessionTerminated")
AUTH_REFUSED: Final = ("TokenGenerationFailure", "AuthorizationFailure", "AuthorizationRevoked")
_NOT_ALLOWED: Final = frozenset({"NO_AUTH", "NO_APP_AUTH", "NOT_ENTITLED"})
_PASSING: Final = frozenset({"TIMEOUT", "IO_ERROR", "NOT_AVAILABLE", "UNAVAILABLE", "CANCELED"})
# Bloomberg does not say when a capacity is given back; asking once an hour or day is refused without cost
_HOUR: Final = 3600.0
_DAY: Final = 86400.0
_MINUTE: Final = 60.0


def words(error: Mapping[str, Any]) -> str:
    """Return an error in the vendor's own words: message, category/subcategory and code."""
    said = str(error.get("message") or error.get("description") or "no words").strip()
    kind = "/".join(str(error[name]) for name in ("category", "subcategory") if error.get(name))
    code = error.get("code", error.get("errorCode"))
    known = ", ".join(part for part in (kind, "" if code is None else f"code {code}") if part)
    return f"{said} ({known})" if known else said


def of_answer(error: Mapping[str, Any], about: str) -> DataflowError:
    """Return our error for an error inside an answer, or for the reason of a RequestFailure."""
    category = str(error.get("category", "")).upper()
    text = f"{about}: Bloomberg says {words(error)}"
    if category == "LIMIT":
        kind = str(error.get("subcategory", "")).upper()
        wait = _DAY if "MONTH" in kind else _HOUR if "DAILY" in kind or "CAPACITY" in kind else _MINUTE
        return RateLimited(text, retry_after=wait)
    if category == "BAD_ARGS":
        return ConfigError(text)
    if category == "BAD_SEC":
        return UnknownSymbol(text)
    if category == "BAD_FLD":
        return PermanentError(text)
    if category in _NOT_ALLOWED:
        return NotEntitled(text)
    # TIMEOUT, IO_ERROR, NOT_AVAILABLE, UNCLASSIFIED …: the vendor's own trouble
    return TransientError(text)


def of_security(error: Mapping[str, Any], security: str) -> DataflowError:
    """Return our error for one security of an answer.

    Only what is known to pass is tried again: one strange security must not hold up a hundred others.
    """
    found = of_answer(error, security)
    passes = isinstance(found, RateLimited) or str(error.get("category", "")).upper() in _PASSING
    return found if passes or isinstance(found, PermanentError) else PermanentError(str(found))


def of_session(message_type: str, body: Mapping[str, Any], about: str) -> DataflowError:
    """Return our error for an admin message that says a session or service cannot be had."""
    found = body.get("reason")
    reason = found if isinstance(found, Mapping) else {}
    category = str(reason.get("category", "")).upper()
    text = f"{about}: {message_type}: Bloomberg says {words(reason)}"
    if message_type in AUTH_REFUSED:
        return AuthFailed(text)
    if category in _NOT_ALLOWED:
        return AuthFailed(text) if message_type in SESSION_ENDED else NotEntitled(text)
    if category == "LIMIT":
        return of_answer(reason, f"{about}: {message_type}")
    return TransientError(text)
