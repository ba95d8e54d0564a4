"""Django settings. Every value that may differ between machines is an environment variable, explained in .env.example.

The variables may also stand in a file: `.env` beside manage.py, or the file that DATAFLOW_ENV_FILE names. What is
already in the environment wins over the file.
"""

import os
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

BASE_DIR = Path(__file__).resolve().parent.parent

ENV_FILE = Path(os.environ.get("DATAFLOW_ENV_FILE", BASE_DIR / ".env"))
# NAME_FILE=/path stands for NAME where a secret is mounted as a file
env = environ.FileAwareEnv()
environ.Env.read_env(ENV_FILE)

# Security

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env("SECRET_KEY", default="only-for-development" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. For development copy .env.example to .env; in production set it "
        "(deploy/production.env.example says how)."
    )
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=not DEBUG)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.bool("SECURE_COOKIES", default=not DEBUG)
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=False)
SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=False)
if env.bool("BEHIND_TLS_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# Applications

INSTALLED_APPS = [
    # unfold overrides templates of the admin, so it comes first
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.import_export",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "import_export",
    "catalog",
    "catalog.marketdata",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "dataflow_site.urls"
ASGI_APPLICATION = "dataflow_site.asgi.application"
WSGI_APPLICATION = "dataflow_site.wsgi.application"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# unfold's login page does not say where to go next
LOGIN_REDIRECT_URL = "admin:index"
UNFOLD = {
    "SITE_TITLE": "DataFlow",
    "SITE_HEADER": "DataFlow",
    "SITE_SYMBOL": "candlestick_chart",
    "STYLES": [lambda request: static("catalog/catalog.css")],
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("catalog/favicon.svg")},
    ],
    "DASHBOARD_CALLBACK": "catalog.admin.dashboard.dashboard",
    "SIDEBAR": {"show_search": True, "navigation": "catalog.admin.navigation.sidebar"},
}
# an import is stored whole or not at all
IMPORT_EXPORT_USE_TRANSACTIONS = True

# Databases

environ.Env.DB_SCHEMES["timescale"] = "dataflow_site.timescale"


def database(url: str) -> dict[str, Any]:
    """Entry of DATABASES for a sqlite://, postgres:// or timescale:// URL; relative SQLite paths start at BASE_DIR."""
    config: dict[str, Any] = environ.Env.db_url_config(url)
    if config["ENGINE"] == "django.db.backends.sqlite3" and config["NAME"] != ":memory:":
        path = BASE_DIR / config["NAME"]
        path.parent.mkdir(parents=True, exist_ok=True)
        config["NAME"] = str(path)
        # WAL lets readers and one writer work at once. A transaction that reads, then writes, fails at once when
        # another wrote meanwhile, whatever the timeout: IMMEDIATE takes the write lock first, and waits for it
        config["OPTIONS"] = {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
    else:
        # a server that went away without a word is noticed: who waits for it could not end
        patience = {"connect_timeout": 10, "tcp_user_timeout": 15_000, "keepalives_idle": 10, "keepalives_interval": 5}
        config["OPTIONS"] = patience | config.get("OPTIONS", {})
    return config


DATABASES = {"default": database(env("DATABASE_URL", default="sqlite:///var/dataflow.sqlite3"))}
# where the stored rows are; the catalog and the ledger are always in "default"
MARKET_ALIAS = "default"
if market_url := env("MARKET_DATABASE_URL", default=""):
    MARKET_ALIAS = "market"
    DATABASES[MARKET_ALIAS] = database(market_url)
DATABASE_ROUTERS = ["dataflow_site.routers.MarketRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env("REDIS_URL", default="")

# Files

LANDING_URL = env("LANDING_URL", default="var/landing")
if "://" in LANDING_URL:
    # not shown: a URL may hold a password
    raise ImproperlyConfigured("LANDING_URL is a URL; accepted: a directory on this machine")
LANDING_URL = str(BASE_DIR / LANDING_URL)
FILES_ROOT = [BASE_DIR / path for path in env("FILES_ROOT", default="data").split(os.pathsep)]
EXPORT_ROOT = BASE_DIR / env("EXPORT_ROOT", default="var/files")

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "var/static"
WHITENOISE_USE_FINDERS = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": (
            "django.contrib.staticfiles.storage.StaticFilesStorage"
            if DEBUG
            else "whitenoise.storage.CompressedManifestStaticFilesStorage"
        )
    },
}

# Time and language: stored times are UTC, and Django exports TIME_ZONE as TZ to every child process

TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
# pages show times with their zone
FORMAT_MODULE_PATH = "catalog.formats"

# Logging

LOG_LEVEL = env("LOG_LEVEL", default="INFO").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    # Django's own handler prints its records too; one line each is enough
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # one line for each request to Prefect's API
        "httpx": {"level": "WARNING"},
    },
}
