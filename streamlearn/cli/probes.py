"""The probes behind `streamlearn check`: one after the other, each within its time, none stopping the next.

Decides what a failure means to the user; what a finding means is
`findings`'s. How a part is looked at is its own module's: `ingest.probe`,
`registry`, `learner.probe`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from streamlearn.cli.findings import Probe, kafka_rows, model_rows, store_rows
from streamlearn.config import Config
from streamlearn.config_file import secrets_of
from streamlearn.ports import StreamlearnError

if TYPE_CHECKING:
    from streamlearn.ingest.probe import KafkaFindings
    from streamlearn.learner.probe import ModelFindings

_MENDING = re.compile(
    r"(?:; |: |\. )(?=(?:ask|check|choose|create|expand|free|give|grant|install|lower|make|mend|name|put|raise|remove"
    r"|see|set|start|try|use|write|`pip)\b)",
    re.IGNORECASE,
)
"""Where an error's words pass from what is wrong to what to do."""


def look_at_kafka(config: Config) -> KafkaFindings:
    """Return what the brokers say; see `ingest.probe.look`."""
    from streamlearn.ingest.probe import look

    return look(config.kafka)


def look_at_store(config: Config) -> str:
    """Return the store's address once it has proved itself; see `ObjectStore.probe`."""
    from streamlearn.registry.open import open_store

    store = open_store(config.store)
    store.probe()
    return store.url


def look_at_model(config: Config) -> ModelFindings:
    """Return what the model is; see `learner.probe.look`."""
    # Here, not above: torch takes seconds, and is not needed to hear that a broker is away.
    from streamlearn.learner.probe import look
    from streamlearn.telemetry.logs import route_libraries

    route_libraries()
    return look(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Something to be probed."""

    name: str
    look: Callable[[Config], Any]
    rows: Callable[[Any, Config], list[Probe]]
    within_s: float
    mend: str
    """Where the failure itself names none."""


def probe_all(
    config: Config,
    *,
    kafka: Callable[[Config], KafkaFindings] = look_at_kafka,
    store: Callable[[Config], str] = look_at_store,
    model: Callable[[Config], ModelFindings] = look_at_model,
    within_s: float | None = None,
    say: Callable[[str], None] = lambda text: typer.echo(text, err=True),
) -> list[Probe]:
    """Probe every part that `config` names and return at least one row for each; raises nothing.

    Args:
        kafka, store, model: how the parts are looked at.
        within_s: bound on each part's time, in seconds; a minute, ten for a model that may have to be fetched.
        say: told what is being probed, as loading a model takes seconds.
    """
    parts = [
        _Part(
            name="kafka",
            look=kafka,
            rows=kafka_rows,
            within_s=60.0,
            mend="mend kafka.bootstrap_servers and [kafka.client]",
        ),
        _Part(
            name="store",
            look=store,
            rows=store_rows,
            within_s=60.0,
            mend="see that it runs, or mend store.url and [store.s3]",
        ),
        _Part(name="model", look=model, rows=model_rows, within_s=600.0, mend="mend [model] and [lora]"),
    ]
    found = []
    for part in parts:
        say(f"probing the {part.name} …" if part.name != "kafka" else "probing Kafka …")
        found += _probe(part, config, part.within_s if within_s is None else within_s)
    return found


def _probe(part: _Part, config: Config, within_s: float) -> list[Probe]:
    """Return the rows of one part; what a library says of its failure is masked, as it may quote what it was given."""
    from streamlearn.telemetry.masking import Masking

    try:
        return part.rows(_within(within_s, lambda: part.look(config)), config)
    except TimeoutError:
        found, mend = f"no answer within {within_s:g} s", part.mend
    except (StreamlearnError, ValueError) as error:
        found, mend = parted(str(error))
    except Exception as error:  # noqa: BLE001 - whatever a part dies of, the others are probed too
        found, mend = f"{type(error).__name__}: {error}", ""
    shown = Masking(secrets_of(config)).text
    return [Probe(part=part.name, ok=False, found=shown(found), mend=shown(mend or part.mend))]


def _within(seconds: float, look: Callable[[], Any]) -> Any:
    """Return what `look` returns or raise what it raises; TimeoutError when it takes longer."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(look())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    # A daemon, unlike a pool's thread: what hangs must not keep the process from ending.
    threading.Thread(target=run, daemon=True, name="probe").start()
    return answer.result(seconds)


def parted(message: str) -> tuple[str, str]:
    """Return an error's message as (what is wrong, what to do); the second may be empty.

    >>> parted("bucket 'b' does not exist at AWS: create it, or mend store.url")
    ("bucket 'b' does not exist at AWS", 'create it, or mend store.url')
    >>> parted("s3://b: http://h:1 does not answer")
    ('s3://b: http://h:1 does not answer', '')
    """
    found = _MENDING.search(message)
    return (message, "") if found is None else (message[: found.start()], message[found.end() :])
