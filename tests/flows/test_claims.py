"""A claim is one process's, until it gives it back, dies, or the database forgets it."""

from uuid import uuid4

import pytest
from django.db import connection

from flows.claims import Claim
from flows.claims import claim
from flows.claims import held

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def thing() -> str:
    """A name that no other test has: a server lets go of a closed session's claim a little later."""
    return f"thing {uuid4()}"


def test_a_claim_is_held_by_one_until_it_is_given_back(database: str, thing: str) -> None:
    one, other = Claim(thing), Claim(thing)
    assert not held(thing)
    assert one.take()
    assert one.take()
    assert held(thing)
    assert not other.take()
    one.release()
    assert not held(thing)
    assert other.take()
    assert not one.take()
    other.release()
    one.release()


def test_a_claim_that_is_waited_for_is_the_same_claim(database: str, thing: str) -> None:
    with claim(thing):
        assert held(thing)
        # a database lets one session have it twice; this is another session
        assert not Claim(thing).take()
    one = Claim(thing)
    assert one.take()
    one.release()


@pytest.mark.parametrize("database", ["timescale"], indirect=True)
def test_a_claim_that_the_database_forgot_is_taken_again_unless_another_was_quicker(database: str, thing: str) -> None:
    one, other = Claim(thing), Claim(thing)
    for quicker in (False, True):
        assert one.take()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
        if quicker:
            assert other.take()
        assert one.take() is not quicker
        one.release()
    other.release()
