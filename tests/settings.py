"""The product's settings with the tests' databases, deaf to the .env of whoever runs them.

`default` is SQLite. `timescale` is there when DATAFLOW_TEST_TIMESCALE_URL is, from the environment or from what
`make services` wrote. tests/conftest.py says how tests choose.
"""

import os
import tempfile
from pathlib import Path

import environ

os.environ["DATAFLOW_ENV_FILE"] = os.devnull
os.environ["DEBUG"] = "True"
from dataflow_site.settings import *

environ.Env.read_env(BASE_DIR / ".services/env")

# one database per process, so that several runs at once do not meet
TEST_NAME = f"dataflow_test_{os.getpid()}"
TEMPORARY = Path(tempfile.gettempdir())
# the test database is a file, since threads and WAL are tested; what only asks Django a question makes none
sqlite = database(f"sqlite:///{TEMPORARY}/{TEST_NAME}.sqlite3")
DATABASES = {"default": sqlite | {"NAME": ":memory:", "TEST": {"NAME": sqlite["NAME"]}}}
if timescale_url := os.environ.get("DATAFLOW_TEST_TIMESCALE_URL"):
    DATABASES["timescale"] = database(timescale_url) | {"TEST": {"NAME": TEST_NAME}}
MARKET_ALIAS = "default"
REDIS_URL = ""

LANDING_URL = str(TEMPORARY / TEST_NAME / "landing")
EXPORT_ROOT = TEMPORARY / TEST_NAME / "files"
FILES_ROOT = [TEMPORARY / TEST_NAME / "data"]

# the product's hashers are slow on purpose
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
