"""Writes the references under `docs/` from the code, or says which are not current.

`python tools/docs.py` writes `docs/configuration.md` from `config.py`, `docs/metrics.md` from `core/metrics.py` and
`docs/schemas/*.json` from `core/manifest.py`; `--check` writes nothing and exits 1 naming what is not current. The
same code gives the same bytes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from streamlearn.config import Config
from streamlearn.config_errors import PREFIX, Key, section_of, variable_of
from streamlearn.core import manifest
from streamlearn.core.metrics import SECTIONS, Kind, Metric

ROOT: Final = Path(__file__).resolve().parent.parent

MINIMAL: Final = """\
[stream]
name = "news"                                # the lineage
[kafka]
bootstrap_servers = "127.0.0.1:9092"
topics = ["news"]
start = "earliest"
[store]
url = "s3://models/streamlearn"
[store.s3]
endpoint_url = "http://127.0.0.1:9000"
[model]
name = "smollm2-135m"
"""
"""A whole configuration; a test loads it."""

QUESTIONS: Final[Mapping[str, str]] = {
    "How many records behind?": "sum(kafka_consumergroup_lag)",
    "How far behind in event time?": "streamlearn_event_time_lag_seconds",
    "Is it catching up? (below 0: yes)": "deriv(sum(kafka_consumergroup_lag)[15m:1m])",
    "Does learning help, over the lineage's life?": "streamlearn_gain_nats_per_token",
    "Does it help lately?": (
        'streamlearn_nats_per_token_fading{model="base",source="all",alpha="0.99"} - ignoring(model) '
        'streamlearn_nats_per_token_fading{model="live",source="all",alpha="0.99"}'
    ),
    "Which source gains most?": (
        'topk(5, streamlearn_nats_per_token{model="base",source!="all"} - ignoring(model) '
        'streamlearn_nats_per_token{model="live",source!="all"})'
    ),
    "How old is the newest version?": "time() - streamlearn_version_created_timestamp_seconds",
    "How old is the last checkpoint?": "time() - streamlearn_checkpoint_timestamp_seconds",
    "How many tokens a second does the stream teach?": "rate(streamlearn_tokens_learnt_total[5m])",
    "And with replay?": "sum(rate(streamlearn_tokens_trained_total[5m]))",
    "What share of its time does the worker spend in steps?": "rate(streamlearn_step_seconds_sum[5m])",
    "How long do slow steps take?": (
        "histogram_quantile(0.95, sum by (le) (rate(streamlearn_step_seconds_bucket[15m])))"
    ),
    "How long do slow checkpoints take?": (
        "histogram_quantile(0.95, sum by (le) (rate(streamlearn_checkpoint_seconds_bucket[1h])))"
    ),
    "What share of the records is bad?": (
        'sum(rate(streamlearn_events_total{outcome="dead_letter"}[1h])) / sum(rate(streamlearn_events_total[1h]))'
    ),
    "And why?": "topk(5, sum by (stage, error) (increase(streamlearn_rejections_total[1h])))",
    "Is the store in trouble?": "sum by (operation) (increase(streamlearn_store_retries_total[15m]))",
}
"""What people ask, in PromQL; a test holds the names to the catalogue."""

SCHEMAS: Final[Mapping[str, Any]] = {
    "head": manifest.Head,
    "state": manifest.CheckpointState,
    "manifest": manifest.Manifest,
    "alias": manifest.Alias,
    "ledger-line": manifest.LedgerLine,
}
"""Documents of the store by the name of their schema."""


_LARGE, _HUGE = 10_000, 2**53
"""From here on, whole numbers are easier to read in groups, and powers of two as such."""
_WORDS: Final[Mapping[tuple[str, str | None], str]] = {
    ("boolean", None): "true or false",
    ("string", None): "text",
    ("string", "date-time"): "time",
    ("string", "password"): "secret text",
    ("array", None): "list of texts",
    ("object", None): "table",
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the references below `root`; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated references under docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not current")
    check = parser.parse_args(arguments).check
    stale = sorted(_stale(root))
    for name in stale:
        if not check:
            _write(root / name, documents().get(name))
        sys.stdout.write(f"{name} {'is not current' if check else 'written'}\n")
    if stale and check:
        sys.stdout.write("run `python tools/docs.py` and commit what it writes\n")
    return 1 if stale and check else 0


def documents() -> dict[str, str]:
    """Return every generated file by its path below the repository."""
    return {
        "docs/configuration.md": configuration(),
        "docs/metrics.md": metrics(),
        **{f"docs/schemas/{name}.schema.json": schema(name) for name in SCHEMAS},
    }


def _stale(root: Path) -> Iterator[str]:
    wanted = documents()
    for name, text in wanted.items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield name
    for path in (root / "docs" / "schemas").glob("*.json"):
        if (name := str(path.relative_to(root).as_posix())) not in wanted:
            yield name


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- docs/configuration.md --------------------------------------------------------


def configuration() -> str:
    """Return the reference of every key."""
    parts = [
        "<!-- Written by tools/docs.py from streamlearn/config.py; edit there. -->",
        "# Configuration",
        (
            "One TOML file, `streamlearn.toml`. This one works as it stands, with credentials found the way boto3 "
            "finds them; everything else has a default:"
        ),
        f"```toml\n{MINIMAL}```",
        (
            "`streamlearn check --offline -c FILE` prints what a file means, defaults included and secrets masked; "
            "without `--offline` it also tries every part that is named. Unknown and contradictory keys are errors "
            "(exit code 2)."
        ),
        (
            f"**Environment.** `{PREFIX}SECTION__KEY` sets `section.key` and wins over the file; an empty variable "
            "sets nothing. Lists and tables are JSON, lists also comma-separated. Any librdkafka property goes "
            f"through `[kafka.client]`, or `{PREFIX}KAFKA__CLIENT__SASL_PASSWORD` for `sasl.password`."
        ),
        (
            "**Durations** are a number and a unit, `s m h d w` or `y`: `90s`, `15m`, `1.5y`. Keys that end in `_s` "
            "are plain seconds."
        ),
        "\n".join(
            f"- [`[{'.'.join(key)}]`](#{_anchor(key)}) {_first_line(section)}" for key, section in _sections(Config)
        ),
        *(part for key, section in _sections(Config) for part in _section(key, section)),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(model: type[BaseModel], prefix: Key = ()) -> Iterator[tuple[Key, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            yield (*prefix, name), section
            yield from _sections(section, (*prefix, name))


def _section(key: Key, section: type[BaseModel]) -> Iterator[str]:
    yield f"## [{'.'.join(key)}]"
    yield inspect.getdoc(section) or ""
    schemas = section.model_json_schema()["properties"]
    items = [
        _key((*key, name), field, schemas[name])
        for name, field in section.model_fields.items()
        if section_of(field) is None
    ]
    yield "\n".join(items)


def _key(key: Key, field: FieldInfo, schema: Mapping[str, Any]) -> str:
    facts = f"- **`{key[-1]}`** · {_kind(schema)} · {_default(field)} · `{variable_of(key)}`"
    said = " ".join((field.description or "").split())
    return f"{facts}  \n  {said}" if said else facts


def _kind(schema: Mapping[str, Any]) -> str:
    """Say in words what a key may hold."""
    branches = [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]
    if len(branches) > 1 or "anyOf" in schema:
        return " or ".join(_kind(branch) for branch in branches)
    if words := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{json.dumps(word)}`" for word in words)
    if (kind := _WORDS.get((schema["type"], schema.get("format")))) is not None:
        return kind
    return ("whole number" if schema["type"] == "integer" else "number") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {_number(schema[word])}" for word, sign in signs.items() if word in schema]
    return f" {', '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    return f"default `{_number(value) if isinstance(value, int) else json.dumps(value)}`"


def _number(value: float) -> str:
    """Write large whole numbers as TOML may have them, in groups.

    >>> _number(33554432), _number(2**63), _number(0.5)
    ('33_554_432', '2^63', '0.5')
    """
    if not isinstance(value, int):
        return f"{value:g}"
    if value.bit_count() == 1 and value >= _HUGE:
        return f"2^{value.bit_length() - 1}"
    return f"{value:_}" if value >= _LARGE else str(value)


def _first_line(section: type[BaseModel]) -> str:
    return (inspect.getdoc(section) or "").partition("\n")[0]


def _anchor(key: Key) -> str:
    # GitHub drops brackets and dots from a heading.
    return "".join(key)


# --- docs/metrics.md ----------------------------------------------------------------


def metrics() -> str:
    """Return the reference of every metric."""
    parts = [
        "<!-- Written by tools/docs.py from streamlearn/core/metrics.py; edit there. -->",
        "# Metrics",
        (
            "Served at `/metrics` on `http.host`:`http.port`, as Prometheus text or OpenMetrics. Counters begin at 0 "
            "with the process; a gauge is absent until its number is known. `source` is the topic, or what "
            "`ingest.fields.source` says; `all` is the whole stream. `model` is `live`, `base` (both over the sampled "
            "chunks) or `live_every_chunk`. The process's own metrics (`process_*`, `python_*`) come on top."
        ),
        "## Questions",
        "\n".join(
            ["| question | PromQL |", "|---|---|", *(f"| {asked} | `{query}` |" for asked, query in QUESTIONS.items())]
        ),
    ]
    for title, section in SECTIONS.items():
        rows = [_row(metric) for metric in section]
        parts += [
            f"## {title}",
            "\n".join(["| metric | kind | labels | unit | meaning |", "|---|---|---|---|---|", *rows]),
        ]
    return "\n\n".join(parts) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    meaning = metric.help
    if metric.known and metric.labels == ("operation",):
        meaning += f" `{metric.labels[0]}` is one of {', '.join(metric.known)}."
    if metric.kind is Kind.HISTOGRAM:
        meaning += f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}."
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit or '–'} | {meaning} |"


# --- docs/schemas -------------------------------------------------------------------


def schema(name: str) -> str:
    """Return the JSON Schema of a document of the store."""
    found = _untitled(TypeAdapter(SCHEMAS[name]).json_schema())
    found.pop("discriminator", None)  # OpenAPI's word, which strict validators refuse
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:streamlearn:{manifest.SCHEMA_NUMBER}:{name}",
        "title": f"streamlearn {name.replace('-', ' ')}",
    }
    return json.dumps(head | found, indent=2, ensure_ascii=False) + "\n"


def _untitled(node: Any) -> Any:
    """Leave out the titles that pydantic makes of field names; a *property* called title is a table, and stays."""
    if isinstance(node, dict):
        return {key: _untitled(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(item) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    sys.exit(main())
