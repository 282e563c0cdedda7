"""`streamlearn bench`: learners side by side on one stream."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from streamlearn.config_file import ConfigError
from streamlearn.demo.rows import BUNDLED, Part

app = typer.Typer(no_args_is_help=True, help="Compare ways of learning from a stream.")

_USUAL = "frozen,sgd_loop,adamw_loop,trainer_nightly,streamlearn"
_SAY_EVERY_S = 10.0
_WIDEST = 1_000


@app.command("learn")
def learn(
    stream: Annotated[str, typer.Option(metavar="FILE", help="JSONL or text, plain or gzip.")] = BUNDLED,
    part: Annotated[str, typer.Option(help="`all`, `first-half` or `second-half` of its events.")] = "all",
    max_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens of the stream.")] = 30_000,
    arms: Annotated[
        str, typer.Option(help="Names, separated by commas; `name@3e-5` sets a rate; `list` shows them.")
    ] = _USUAL,
    model: Annotated[str, typer.Option(help="Hub id, directory, GGUF file, or `smollm2-135m`.")] = "smollm2-135m",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 17,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For the streamlearn arms: `learner.learning_rate=1e-3`."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Write the curves of gain there.")] = None,
) -> None:
    """Let several learners live with the same stream, and show how each would have done.

    Every arm scores the same chunks before it learns from them, in a process of its own. `nats/token` is over the
    whole stretch, `forgetting` what its first tenth lost again by the end, `held-out` what a text that no arm saw
    costs above the frozen base. Intervals are of paired blocks of 16 chunks.
    """
    # Here, not above: torch takes seconds that `--help` need not wait for.
    from streamlearn.learner.threads import share_cores

    share_cores(os.environ)
    from rich.console import Console

    from streamlearn.bench.compare import compare
    from streamlearn.bench.make import ARMS
    from streamlearn.bench.report import draw, table
    from streamlearn.bench.run import Wishes

    if arms == "list":
        typer.echo("\n".join(ARMS))
        typer.echo("Each but frozen takes a learning rate of its own: adamw_loop@3e-5, streamlearn@1e-3.", err=True)
        return
    wishes = Wishes(
        stream=stream,
        model=model,
        max_tokens=max_tokens,
        part=_part(part),
        seed=seed,
        settings=settings_of(setting or []),
    )
    comparison = compare([arm.strip() for arm in arms.split(",") if arm.strip()], wishes, progress())
    console, shown = Console(), table(comparison)
    # A narrow terminal, or none at all (80 columns), would cut figures off; better that lines are long.
    wide = console.options.update(max_width=_WIDEST)
    console.width = max(console.width, console.measure(shown, options=wide).maximum)
    console.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(comparison.document(), indent=2) + "\n")
    if plot is not None:
        draw(comparison, plot)


def _part(name: str) -> Part:
    if name in {"all", "first-half", "second-half"}:
        return name  # type: ignore[return-value]
    raise ConfigError(f"--part {name}: there are `all`, `first-half` and `second-half`")


def settings_of(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return `section.key=value` pairs as sections of a configuration.

    Raises:
        ConfigError: one has no such form.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise ConfigError(f"--set {pair}: write section.key=value, as in learner.learning_rate=1e-3")
        try:
            found.setdefault(section, {})[name] = json.loads(value)
        except ValueError:
            found.setdefault(section, {})[name] = value
    return found


def progress() -> Callable[[str, int, int], None]:
    """Return a callback that says on standard error, every ten seconds, how far an arm is."""
    began, said = 0.0, 0.0
    before: tuple[str, int] | None = None

    def tell(arm: str, done: int, total: int) -> None:
        nonlocal began, said, before
        now = time.monotonic()
        if before is None or arm != before[0] or done < before[1]:
            # An experiment runs the same arm on one stream after another.
            began = now
        before = (arm, done)
        if now - said >= _SAY_EVERY_S or done == total:
            said = now
            typer.echo(f"{arm}: {done / total:4.0%} of {total:,} tokens, {now - began:.0f} s", err=True)

    return tell
