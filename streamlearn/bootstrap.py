"""From a configuration to a wired daemon: the only place that names concrete parts.

Also owns what belongs to the process: signals, the order of opening and
closing, and the system's clock.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Self

import structlog

from streamlearn import config_file
from streamlearn.checkpointer import Checkpointer, CheckpointSettings
from streamlearn.config import Config, parse_every
from streamlearn.core.caps import CapSettings
from streamlearn.core.clipping import ClipSettings
from streamlearn.core.drift import DriftSettings
from streamlearn.core.gate import GateSettings
from streamlearn.core.junk import JunkSettings
from streamlearn.core.manifest import Scores, Totals
from streamlearn.core.mix import Shares
from streamlearn.core.proof import ProofSettings
from streamlearn.core.reaction import ReactionSettings
from streamlearn.core.schedule import Every
from streamlearn.core.stream import StreamSettings, StreamState
from streamlearn.core.vigilance import VigilanceSettings
from streamlearn.core.watch import WatchSettings
from streamlearn.core.window import WindowBounds
from streamlearn.daemon import Daemon, DaemonSettings
from streamlearn.ingest.open import open_dead_letters, open_source
from streamlearn.judge import Judge, JudgeSettings
from streamlearn.learner.open import OpenedLearner, open_learner
from streamlearn.lessons import Lessons, LessonSettings
from streamlearn.ports import Clock, Fault, Lineage, StoreUnavailable, StreamlearnError, no_fault
from streamlearn.publisher import Publisher
from streamlearn.registry.lineage import StoreLineage
from streamlearn.registry.open import open_store
from streamlearn.registry.retrying import RetryingStore
from streamlearn.reporter import Progressed, Reporter, RunReport
from streamlearn.telemetry.health import WorkerHealth
from streamlearn.telemetry.http import HttpServer
from streamlearn.telemetry.prometheus import PrometheusTelemetry

_log = structlog.get_logger(__name__)

_LIBRARIES = ("streamlearn", "torch", "transformers", "peft", "confluent-kafka", "safetensors")
_DEAD_LETTER_FLUSH_S = 60.0
"""A flush of dead letters that takes longer than librdkafka's own delivery attempts would is an outage."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """Return the wall clock, seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


class StoppedEarly(StreamlearnError):
    """Told to stop before anything was read: nothing was begun, and nothing is lost."""


class Worker:
    """One daemon with everything it needs, opened in order and closed in reverse.

    Use as a context manager: entering opens the store, loads the model and
    binds the port; leaving gives all of it back. Entering raises
    `StoppedEarly` when told to stop while it waits for the store.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None, fault: Fault = no_fault) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._fault = fault
        self._closing = ExitStack()
        self._stopped = False
        self._daemon: Daemon | None = None
        self._reporter: Reporter | None = None
        self._opened: OpenedLearner | None = None
        self._http: HttpServer | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def learner(self) -> OpenedLearner:
        """The loaded model and its tokenizer."""
        assert self._opened is not None, "enter the worker first"
        return self._opened

    @property
    def http_address(self) -> str:
        """Where metrics and health are served, `host:port`."""
        assert self._http is not None, "enter the worker first"
        return self._http.address

    def stop(self) -> None:
        """Finish the step, checkpoint and return from `run`; safe from any thread and from a signal handler."""
        self._stopped = True
        if self._daemon is not None:
            self._daemon.stop()

    def run(
        self,
        *,
        until_end: bool = False,
        deadline_s: float = math.inf,
        publish_last: bool = False,
        on_step: Callable[[Progressed], None] | None = None,
    ) -> RunReport:
        """Learn until stopped; see `Daemon.run`.

        Args:
            on_step: called in the learner's thread after each step.
        """
        assert self._daemon is not None, "enter the worker first"
        assert self._reporter is not None, "enter the worker first"
        self._reporter.on_step = on_step
        if self._stopped:
            self._daemon.stop()
        return self._daemon.run(until_end=until_end, deadline_s=deadline_s, publish_last=publish_last)

    def _open(self) -> None:
        config, closing = self._config, self._closing
        telemetry = PrometheusTelemetry()
        telemetry.info("streamlearn_build_info", version=_version("streamlearn"), python=platform.python_version())
        health = WorkerHealth(unhealthy_after_s=config.http.unhealthy_after_s, clock=self._clock, telemetry=telemetry)
        health.not_ready("loading the model")
        self._http = HttpServer(config.http, telemetry.registry, health)
        self._http.start()
        closing.callback(self._http.close)

        store = RetryingStore(
            open_store(config.store),
            budget_s=config.store.retry_budget_s,
            clock=self._clock,
            telemetry=telemetry,
            should_stop=self._gives_up,
        )
        self._probe(store)
        # Before the model: a writer that cannot commit must not spend minutes to find out.
        lineage: Lineage = StoreLineage(
            store,
            config.stream.name,
            ttl_s=config.lease.ttl_s,
            clock=self._clock,
            telemetry=telemetry,
            fault=self._fault,
        )
        closing.callback(self._release, lineage)
        self._opened = open_learner(config)
        self._daemon = self._wired(lineage, self._opened, telemetry, health)

    def _probe(self, store: RetryingStore) -> None:
        try:
            store.probe()
        except StoreUnavailable as absence:
            if not self._stopped:
                raise
            raise StoppedEarly(f"told to stop before anything began: {absence}") from absence

    def _release(self, lineage: Lineage) -> None:
        # Who has given the store up does not wait for it once more; a standby waits until the lease runs out.
        if not self._gives_up():
            lineage.release()

    def _gives_up(self) -> bool:
        """Whether nobody waits for the store any longer: told to stop, and nothing to make durable first."""
        return self._stopped and (self._daemon is None or not self._daemon.at_stake)

    def _wired(
        self, lineage: Lineage, opened: OpenedLearner, telemetry: PrometheusTelemetry, health: WorkerHealth
    ) -> Daemon:
        """Join what reads, learns and publishes; in the order in which it is given back, reversed."""
        config, closing = self._config, self._closing
        dead_letters = open_dead_letters(config, telemetry, fault=self._fault)
        closing.callback(dead_letters.close)
        source = open_source(config, opened.chunker, telemetry, self._clock)
        closing.callback(source.close)
        self._reporter = Reporter(telemetry, self._clock, group=config.group)
        publisher = Publisher(
            lineage=lineage,
            dead_letters=dead_letters,
            mirror=source.mirror,
            telemetry=telemetry,
            clock=self._clock,
            lease_ttl_s=config.lease.ttl_s,
            flush_timeout_s=_DEAD_LETTER_FLUSH_S,
            on_committed=self._reporter.committed,
        )
        closing.callback(publisher.close)
        stream = StreamState(stream_settings(config, opened.context_tokens))
        lessons = Lessons(opened.learner, stream, lesson_settings(config))
        judge = Judge(
            learner=opened.learner,
            guests=opened.learner,
            stream=stream,
            lineage=lineage,
            held_out=opened.held_out,
            settings=_judge_settings(config),
            on_ruling=self._reporter.ruled,
        )
        return Daemon(
            source=source,
            dead_letters=dead_letters,
            learner=opened.learner,
            stream=stream,
            lessons=lessons,
            judge=judge,
            anchor=opened.anchor,
            lineage=lineage,
            publisher=publisher,
            checkpointer=Checkpointer(
                source=source,
                learner=opened.learner,
                stream=stream,
                lessons=lessons,
                judge=judge,
                publisher=publisher,
                clock=self._clock,
                settings=_checkpoint_settings(config),
            ),
            reporter=self._reporter,
            health=health,
            clock=self._clock,
            settings=_daemon_settings(config),
        )


def run(config: Config, *, until_end: bool = False) -> RunReport:
    """Run the worker of `config` until it ends or is told to.

    SIGTERM and SIGINT finish the step, checkpoint and return; a second one ends at once. Nobody waits for a store
    that is away before anything was learnt.
    """
    worker = Worker(config)
    with stopped_by_signals(worker.stop):
        try:
            with worker:
                _log.info("serving", metrics=f"http://{worker.http_address}/metrics")
                return worker.run(until_end=until_end)
        except StoppedEarly as early:
            _log.info(str(early))
            return RunReport(
                seconds=0.0,
                step_seconds=0.0,
                events=0,
                tokens_trained=0,
                totals=Totals(),
                scores=Scores(),
                newest_version=0,
            )


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM or SIGINT while the block runs; a second one ends the process at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        stop()
        # What is set first takes effect again: the second signal does not wait.
        signal.signal(number, earlier[signal.Signals(number)])

    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in earlier:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def lesson_settings(config: Config) -> LessonSettings:
    """Return how a step is planned by `config`."""
    fade = config.learner.fade_half_lives
    return LessonSettings(
        learning_rate=config.learner.learning_rate,
        warmup_steps=config.learner.warmup_steps,
        fade_half_life_s=None if fade is None else fade * config.window.half_life_s,
        clip=ClipSettings(
            max_norm=config.learner.clip_norm, z=config.learner.clip_z, fading=0.97, warmup_steps=25, recent=16
        ),
    )


def stream_settings(config: Config, context_tokens: int) -> StreamSettings:
    """Return what the state of a stream is made with by `config`.

    Raises:
        ValueError: its settings contradict the model's context.
    """
    window, mix = config.window, config.mix
    if mix.reservoir > 0 and mix.reservoir_tokens < context_tokens:
        raise ValueError(
            f"mix.reservoir_tokens = {mix.reservoir_tokens} is below one chunk of {context_tokens} tokens, so that "
            "nothing of the past would be kept: raise it, or set mix.reservoir = 0"
        )
    return StreamSettings(
        seed=config.stream.seed,
        step_chunks=config.learner.step_chunks,
        shares=Shares(window=mix.window, reservoir=mix.reservoir, anchor=mix.anchor if config.anchor.given else 0.0),
        window=WindowBounds(
            half_life_s=window.half_life_s,
            length_s=window.half_life_s * window.length_half_lives,
            min_effective_chunks=window.min_effective_chunks,
            max_tokens=window.max_tokens,
            max_bytes=window.max_bytes,
            max_visits=mix.window_visits,
        ),
        reservoir_chunks=mix.reservoir_tokens // context_tokens,
        base_sample=config.evaluation.sample,
        max_sources=config.ingest.max_sources,
        vigilance=_vigilance_settings(config),
        caps=_cap_settings(config),
        near_duplicates=config.hygiene.near_duplicates,
    )


def _vigilance_settings(config: Config) -> VigilanceSettings:
    drift, hygiene = config.drift, config.hygiene
    junk = JunkSettings(
        z=hygiene.junk_z or math.inf,
        near_zero=hygiene.near_zero,
        min_tokens=16,
        fading=0.99,
        warmup_chunks=100,
        recent=16,
    )
    reaction = ReactionSettings(
        past_weight=drift.past_weight,
        half_life=drift.half_life,
        doubling_chunks=drift.min_chunks_apart,
        rate=drift.rate,
        rate_steps=drift.rate_steps,
        hold_blocks=20,
    )
    full_gain = config.learner.full_rate_gain
    proof = ProofSettings(full_gain=full_gain, least=config.learner.least_rate, fading=0.9)
    watch = DriftSettings(delta=drift.delta, min_chunks_apart=drift.min_chunks_apart)
    return VigilanceSettings(
        junk=None if hygiene.junk_z is None else junk,
        drift=watch if drift.watch else None,
        reaction=reaction if drift.watch and drift.react else None,
        # Without the base's scores nothing could ever be proved.
        proof=None if full_gain == 0.0 or config.evaluation.sample == 0.0 else proof,
    )


def _cap_settings(config: Config) -> CapSettings | None:
    share = config.hygiene.source_share
    if share is None:
        return None
    return CapSettings(
        half_life_s=config.window.half_life_s,
        share=share,
        fair_parts=2.0,
        free_tokens=4096,
        max_chunks=config.hygiene.source_events,
        max_sources=1000,
    )


def _judge_settings(config: Config) -> JudgeSettings:
    given = config.gate
    gate = GateSettings(
        min_gain=given.min_gain,
        min_blocks=given.min_blocks,
        max_blocks=given.max_blocks,
        max_held_out_rise=given.max_held_out_rise,
        alpha=given.alpha,
    )
    watch = WatchSettings(
        min_loss=given.min_gain,
        min_blocks=given.min_blocks,
        max_blocks=given.max_blocks,
        plunge=given.plunge,
        plunge_blocks=3,
        alpha=given.watch_alpha,
    )
    return JudgeSettings(gate=gate if given.enabled else None, watch=watch)


def _daemon_settings(config: Config) -> DaemonSettings:
    return DaemonSettings(
        flush_s=config.learner.flush_s,
        grace_s=config.shutdown.grace_s,
    )


def _checkpoint_settings(config: Config) -> CheckpointSettings:
    unit, amount = parse_every(config.publish.every)
    return CheckpointSettings(
        every_s=config.checkpoint.every_s,
        every_events=config.checkpoint.every_events,
        publish_every=Every(unit=unit, amount=amount),
        step_chunks=config.learner.step_chunks,
        catch_up_chunks=config.learner.catch_up_chunks,
        config_digest=config_file.digest(config),
        libraries={name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
