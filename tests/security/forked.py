"""Many commands, each in a process of its own, for the price of one start.

    python -m tests.security.forked CASES.json

Imports what the commands need, then forks for each case of
`[{"name", "arguments", "env", "out", "fault"}, …]`, three at a time, with `env`
laid over the environment and both outputs in `out`. Prints the exit codes by
name as one JSON object. `fault` makes the worker die of a mistake of ours
whose message is that text.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_AT_ONCE = 3
_DEADLINE_S = 120.0


def main(cases: Sequence[Mapping[str, Any]]) -> None:
    """Run the cases and print their exit codes."""
    from streamlearn import bootstrap
    from streamlearn.ingest import probe
    from streamlearn.learner import probe as learner_probe
    from streamlearn.registry import s3

    assert all((bootstrap, probe, learner_probe, s3)), "imported, so that no child has to"
    waiting, running, codes = list(cases), dict[int, str](), dict[str, int]()
    deadline = time.monotonic() + _DEADLINE_S
    while waiting or running:
        if time.monotonic() > deadline:
            # What hangs is a result too, and hides no other.
            waiting.clear()
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        while waiting and len(running) < _AT_ONCE:
            case = waiting.pop(0)
            running[_started(case)] = str(case["name"])
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        else:
            # A look: a wait for any child knows no deadline.
            time.sleep(0.02)
    sys.stdout.write(json.dumps(codes))


def _started(case: Mapping[str, Any]) -> int:
    if child := os.fork():
        return child
    out = os.open(case["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(case["env"])
    for name in [name for name, value in os.environ.items() if value == ""]:
        del os.environ[name]
    _run(case)
    return 0


def _run(case: Mapping[str, Any]) -> None:
    from streamlearn import bootstrap
    from streamlearn.cli.app import main as streamlearn

    if fault := case.get("fault"):

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError(fault)

        bootstrap.run = broken  # type: ignore[assignment]
    code = 1
    try:
        streamlearn(case["arguments"])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - as the interpreter does with what nobody catches
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_all(cases: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, tuple[int, str]]:
    """Run the cases (`name`, `arguments`, `env`, perhaps `fault`) and return exit code and output by name."""
    told = [{"env": {}, **case, "out": str(folder / f"{case['name']}.out".replace(" ", "-"))} for case in cases]
    file = folder / "cases.json"
    file.write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.forked", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE_S * 2,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes: dict[str, int] = json.loads(done.stdout)
    return {
        str(case["name"]): (codes[str(case["name"])], Path(str(case["out"])).read_text())
        for case in told
        if str(case["name"]) in codes
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
