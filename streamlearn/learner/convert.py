"""A GGUF file as a model directory, once.

GGUF stores quantised weights that cannot be trained through; they are
expanded to bf16 safetensors and cached by the file's digest.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from streamlearn.ports import Fatal

_log = structlog.get_logger(__name__)

_DIGITS = 12
"""Of the file's SHA-256, in the directory's name."""


def already_converted(stem: str, cache: Path) -> Path | None:
    """Return the directory of a GGUF file converted earlier, by the file's name without its ending; None without."""
    return next(iter(sorted((cache / "models").glob(f"{stem}-{'[0-9a-f]' * _DIGITS}"))), None)


def converted(file: Path, cache: Path) -> Path:
    """Return the directory that holds `file` as config, bf16 safetensors and tokenizer; makes it if need be.

    Several processes may convert at once: each writes its own directory, and one of them is renamed into place.

    Raises:
        Fatal: the file is no GGUF model that can be expanded, or the cache cannot be written to.
    """
    with file.open("rb") as body:
        digest = hashlib.file_digest(body, "sha256").hexdigest()
    target = cache / "models" / f"{file.stem}-{digest[:_DIGITS]}"
    if target.is_dir():
        return target
    _log.info("converting a GGUF model, once; this takes half a minute", file=file.name, to=str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise Fatal(f"model.cache_dir: {target.parent} cannot be written to: {error.strerror}") from None
    try:
        with _bars_on_terminals_only():
            _convert(file, scratch)
        # mkdtemp keeps others out; a cache may be shared.
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError as error:
        # Another process was faster, with the same bytes; or the directory cannot be had.
        if not target.is_dir():
            raise Fatal(f"{file.name} cannot be converted: {error}") from error
    except (ValueError, KeyError, IndexError, NotImplementedError, RuntimeError, struct.error) as error:
        raise Fatal(f"{file} is no GGUF model that transformers can expand: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep the libraries' progress bars out of logs."""
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        yield


def _convert(file: Path, directory: Path) -> None:
    expanded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A model from GGUF refuses save_pretrained: its weights move into one that never was quantised.
    config = expanded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    plain.load_state_dict(expanded.state_dict())
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
