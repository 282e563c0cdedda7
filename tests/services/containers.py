"""Whether tests may use containers, and can."""

from __future__ import annotations

import os


def docker_answers() -> bool:
    """Whether `STREAMLEARN_TEST_CONTAINERS=1` and a Docker daemon answers."""
    if os.environ.get("STREAMLEARN_TEST_CONTAINERS") != "1":
        return False
    try:
        import docker  # type: ignore[import-untyped]
        from docker.errors import DockerException  # type: ignore[import-untyped]
    except ImportError:
        return False
    try:
        return bool(docker.from_env(timeout=5).ping())
    except DockerException:
        return False
