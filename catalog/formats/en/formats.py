"""Times as people compare them with logs and files, e.g. 2024-01-02 14:30:00 UTC."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
SHORT_DATETIME_FORMAT = DATETIME_FORMAT
DATE_FORMAT = "Y-m-d"
