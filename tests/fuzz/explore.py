"""Look for hostile input by coverage, for as long as one likes; what it finds becomes a case of the tests beside it.

    pip install atheris
    python -m tests.fuzz.explore record -max_total_time=300

Targets: `record`, `document`, `config`; of ledgers and arrays the parsers are
native, where it sees nothing. What follows the target goes to libFuzzer.
Atheris is no dependency: it has wheels for some versions of Python only, and
`make check` must run on all of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

from streamlearn.ports import StreamlearnError


def targets() -> dict[str, Callable[[bytes], object]]:
    """Return what may be explored; imported here, so that all of it is instrumented."""
    from streamlearn.config_file import ConfigError, resolve
    from streamlearn.core.manifest import Alias, CheckpointState, Head, Manifest
    from streamlearn.registry.documents import from_bytes
    from tests.fuzz.test_records import REFINERS, refined

    def record(body: bytes) -> None:
        for refiner in REFINERS.values():
            refined(refiner, body)

    def document(body: bytes) -> None:
        for kind in (Head, CheckpointState, Manifest, Alias):
            with contextlib.suppress(StreamlearnError):
                from_bytes(kind, "news/x.json", body)

    def config(body: bytes) -> None:
        import tomllib

        try:
            parsed = tomllib.loads(body.decode())
        except (ValueError, RecursionError):
            return
        with contextlib.suppress(ConfigError):
            resolve(parsed, {})

    return {"record": record, "document": document, "config": config}


def main() -> None:
    """Explore until told to stop, or until something is raised that is none of ours."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["streamlearn", "json", "tomllib"]):
        chosen = targets()[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], chosen)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
