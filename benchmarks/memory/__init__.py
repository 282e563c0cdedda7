"""How much memory a worker without a model takes while it works off a backlog.

    python -m benchmarks.memory --events 1000000 --json

A topic is filled with events on a real Kafka (`KAFKA_HOME` with Java, or the
cluster of `STREAMLEARN_TEST_KAFKA`), else a log is made up in the worker's own
process (`records.py`). A second process, which never imports torch, reads it
with the worker's own parts: ingest, stream state, checkpoints and versions to
a directory store; only the model is a number (`worker.py`). Its resident
memory is sampled from outside all the while (`sampling.py`).

The plateau is the median between 20 and 40 % of the events; the promise is
that no later sample is more than 150 MB above it. Exit code 1 when broken.
With `--json` the last line is one JSON object.
"""
