import os
import subprocess
import sys
import threading

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db import connections
from django.db import transaction


def test_database_is_the_one_named(database: str) -> None:
    assert connection.vendor == {"sqlite": "sqlite", "timescale": "postgresql"}[database]
    assert settings.DATABASES["default"]["ENGINE"] == connection.settings_dict["ENGINE"]
    assert "test" in connection.settings_dict["NAME"]


def test_rows_and_content_types_are_those_of_the_database(database: str) -> None:
    User.objects.create_user("someone")
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM django_content_type WHERE model = 'user'")
        assert cursor.fetchone() == (ContentType.objects.get_for_model(User).pk,)


@pytest.mark.django_db(transaction=True)
def test_threads_meet_the_same_database(database: str) -> None:
    seen = []

    def work() -> None:
        with transaction.atomic():
            User.objects.create_user("from-a-thread")
            seen.append(connection.vendor)
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [connection.vendor]
    assert User.objects.get().username == "from-a-thread"


@pytest.mark.django_db
def test_default_is_sqlite_where_nothing_else_is_asked() -> None:
    assert connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


def test_market_database_is_a_second_one(market_database: str) -> None:
    assert connections[market_database].vendor == "postgresql"
    assert connection.vendor == "sqlite"


@pytest.mark.django_db(transaction=True)
def test_child_process_finds_the_database_by_its_url(database: str, database_url: str) -> None:
    User.objects.create_user("from-the-parent")
    ask = "from django.contrib.auth.models import User; print(User.objects.get())"
    variables = {"DATAFLOW_ENV_FILE": os.devnull, "DEBUG": "True", "DATABASE_URL": database_url}
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "--command", ask],
        cwd=settings.BASE_DIR,
        env=os.environ | variables | {"DJANGO_SETTINGS_MODULE": "dataflow_site.settings"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "from-the-parent\n"
