"""What the image's builder installs, as pip's arguments; runs before anything is installed.

    python requirements.py pyproject.toml         the project's dependencies, one a line
    python requirements.py --torch-index URL      `--extra-index-url URL`, where it answers

Keeps the list of dependencies in pyproject.toml alone, and lets a build go on
where PyTorch's index is out of reach: pip itself would try it for minutes.
"""

from __future__ import annotations

import sys
import tomllib
import urllib.request
from pathlib import Path

_ANSWER_S = 5.0
"""Seconds; an index that takes longer is treated as out of reach."""


def dependencies(pyproject: Path) -> list[str]:
    """Return the requirements that `pyproject` lists."""
    with pyproject.open("rb") as file:
        return list(tomllib.load(file)["project"]["dependencies"])


def torch_index(url: str) -> list[str]:
    """Return pip's arguments that add the index `url`; none where it is empty or does not answer."""
    if not url:
        return []
    if not url.startswith("https://"):
        raise SystemExit(f"TORCH_INDEX = {url!r}: an https:// address is needed, or nothing")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/torch/", timeout=_ANSWER_S):  # noqa: S310 - https, see above
            return ["--extra-index-url", url]
    except OSError as error:
        sys.stderr.write(f"{url} does not answer ({error}): torch comes from pip's own sources, with CUDA or without\n")
        return []


def main(arguments: list[str]) -> None:
    """Print what `arguments` ask for."""
    if arguments[:1] == ["--torch-index"]:
        print(*torch_index("".join(arguments[1:])))  # noqa: T201 - pip's command line reads it
    else:
        print(*dependencies(Path(arguments[0])), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
