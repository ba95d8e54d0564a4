# The image of every process: admin, Prefect server, worker, `manage.py` commands.

FROM python:3.13-slim AS packages
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# the product's packages without the tests', at the versions and with the hashes of the lock
RUN python -m venv /opt/venv \
    && sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.lock \
    && pip install --no-cache-dir --no-deps --require-hashes -r uv.lock \
    && uv pip install --no-cache --python /opt/venv/bin/python \
        --requirements pyproject.toml --extra databento --constraints requirements.lock

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home dataflow \
    && install -d -o dataflow -g dataflow /var/lib/dataflow /var/lib/prefect
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    DJANGO_SETTINGS_MODULE=dataflow_site.settings \
    PREFECT_HOME=/var/lib/prefect \
    LANDING_URL=/var/lib/dataflow/landing \
    FILES_ROOT=/var/lib/dataflow/data \
    EXPORT_ROOT=/var/lib/dataflow/files
WORKDIR /app
COPY . .
# the key is needed to load the settings and signs nothing here
RUN SECRET_KEY=build DATABASE_URL=sqlite://:memory: python manage.py collectstatic --no-input
USER dataflow
EXPOSE 8000
CMD ["uvicorn", "dataflow_site.asgi:application", "--host", "0.0.0.0", "--port", "8000"]
