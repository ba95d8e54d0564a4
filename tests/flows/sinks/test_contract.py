import pytest

pytest.register_assert_rewrite("tests.contract_sink")

from tests.contract_sink import SinkContract  # noqa: E402 (after the line above, which it is for)


class TestEverySink(SinkContract):
    """The contract, with every kind of the registry."""
