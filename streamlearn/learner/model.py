"""A base model with a LoRA adapter on a device, and the card that says exactly which.

Decides device, precision and adapter shape from the configuration; knows
nothing of steps. The base is frozen and never changes: everything that is
learnt is in the adapter, whose B starts at zero, so "adapter off" is the base.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from streamlearn.config import Config, Lora
from streamlearn.core.manifest import BaseModelCard, LoraShape
from streamlearn.learner.precision import faster_dtype
from streamlearn.learner.resolve import ModelFiles, resolve
from streamlearn.ports import Fatal

_log = structlog.get_logger(__name__)

_CPU_CONTEXT, _GPU_CONTEXT = 256, 1024
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to be taught."""

    model: PeftModel
    tokenizer: Any
    base: BaseModelCard
    lora: LoraShape
    device: torch.device
    dtype: torch.dtype
    """Of the base's weights; the adapter is float32 always."""
    context_tokens: int


def load(config: Config) -> Loaded:
    """Find, load and adapt the model that `config` names.

    Raises:
        Fatal: it cannot be had or read, the device is not there, or
            `lora.target_modules` match nothing; says how to mend it.
    """
    # Bars of a library would tear logs and live views.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    device = device_of(config.model.device)
    if config.learner.threads is not None:
        torch.set_num_threads(config.learner.threads)
    files = resolve(config.model)
    tokenizer = _tokenizer(files)
    dtype = _dtype(config, device, files)
    base = _base(files, dtype, device)
    card = _card(config.model.name, files, base, dtype)
    model = _adapted(base, config, device, files.served_name)
    shape = _shape(model)
    context = config.model.context_tokens or (_CPU_CONTEXT if device.type == "cpu" else _GPU_CONTEXT)
    _log.info(
        "model loaded",
        base=card.served_name,
        device=str(device),
        dtype=card.dtype,
        parameters=card.parameters,
        adapter_parameters=shape.parameters,
    )
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        base=card,
        lora=shape,
        device=device,
        dtype=dtype,
        context_tokens=min(context, _longest(base)),
    )


def device_of(name: str) -> torch.device:
    """Return the device that `model.device` means.

    Raises:
        Fatal: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Fatal(f"model.device = {name!r} is no device: use 'auto', 'cpu', 'cuda' or 'cuda:1'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Fatal(
            f"model.device = {name!r}, but PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs: "
            "install a CUDA build and a driver, or use 'auto'"
        )
    return device


def weights_digest(directory: Path) -> str:
    """Return the SHA-256, in hex, of every tensor below `directory`: name, type, shape and bytes, in order of names.

    The same weights in other files, or in files of another release, have the same digest.
    """
    places = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            places.update(dict.fromkeys(tensors.keys(), file))
    digest = hashlib.sha256()
    for file, names in _by_file(places):
        with safe_open(file, framework="pt") as tensors:
            for name in names:
                tensor = tensors.get_tensor(name)
                digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _by_file(places: dict[str, Path]) -> Iterable[tuple[Path, list[str]]]:
    """Yield runs of names, in order, that lie in the same file."""
    run: list[str] = []
    for name in sorted(places):
        if run and places[run[0]] != places[name]:
            yield places[run[0]], run
            run = []
        run.append(name)
    if run:
        yield places[run[0]], run


def _dtype(config: Config, device: torch.device, files: ModelFiles) -> torch.dtype:
    match config.model.dtype:
        case "bf16":
            return torch.bfloat16
        case "fp32":
            return torch.float32
        case _:
            shape = json.loads((files.directory / "config.json").read_bytes())
            return faster_dtype(device, width=int(shape.get("hidden_size", 1024)))


def _tokenizer(files: ModelFiles) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.directory)
    except (OSError, ValueError) as error:
        raise Fatal(f"{files.directory} holds no usable tokenizer: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise Fatal(f"{files.directory}: its tokenizer has no tokenizer.json; convert it to a fast one first")
    if tokenizer.eos_token_id is None:
        raise Fatal(f"{files.directory}: its tokenizer names no end-of-text token (eos_token)")
    return tokenizer


def _base(files: ModelFiles, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(files.directory, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise Fatal(f"{files.directory} holds no usable causal language model: {_first_line(error)}") from error
    model.config.use_cache = False
    return model.to(device)


def _adapted(base: Any, config: Config, device: torch.device, served_name: str) -> PeftModel:
    # The adapter's start is the lineage's, whatever was drawn in this process before.
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(config.stream.seed)
        try:
            shape = LoraConfig(
                task_type="CAUSAL_LM",
                r=config.lora.rank,
                lora_alpha=config.lora.alpha or 2.0 * config.lora.rank,  # type: ignore[arg-type]  # PEFT scales by alpha / r
                lora_dropout=0.0,
                bias="none",
                target_modules=_targets(base, config.lora),
            )
            with known_warnings_unsaid():
                model = get_peft_model(base, shape, autocast_adapter_dtype=True)
        except ValueError as error:
            raise Fatal(
                f"lora.target_modules = {config.lora.target_modules!r}: {_first_line(error)}; {_known_modules(base)}"
            ) from error
    model.peft_config["default"].base_model_name_or_path = served_name
    model.eval()
    return model


@contextmanager
def known_warnings_unsaid() -> Iterator[None]:
    """Let PEFT add an adapter without the warnings that we have answered."""
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.24 by an old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # Of merging, which we never do: the head's low-rank part leaves the tied embedding as it is.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True` and a tied layer", UserWarning)
        warnings.filterwarnings("ignore", "Model with `tie_word_embeddings=True` and the tied_target", UserWarning)
        yield


def _targets(base: Any, lora: Lora) -> list[str]:
    """Return the names of the layers that are adapted.

    Raises:
        ValueError: one of them is not there.
    """
    layers = [name for name, _ in base.named_modules()]
    head = next((name for name, part in base.named_modules() if part is base.get_output_embeddings()), None)
    if lora.target_modules == "all-linear":
        wanted = {name for name in _linear(base) if head is None or name != _last(head)}
    else:
        wanted = set(lora.target_modules)
    for name in sorted(wanted):
        if not any(f".{layer}".endswith(f".{name}") for layer in layers):
            raise ValueError(f"there is no layer {name!r}")
    return sorted(wanted | {_last(head)} if lora.output_head and head is not None else wanted)


def _linear(base: Any) -> set[str]:
    return {_last(name) for name, part in base.named_modules() if isinstance(part, torch.nn.Linear | Conv1D)}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _known_modules(base: Any) -> str:
    return f"its linear layers are {', '.join(sorted(_linear(base)))}"


def _card(name: str, files: ModelFiles, base: Any, dtype: torch.dtype) -> BaseModelCard:
    tokenizer = hashlib.sha256()
    for file in _TOKENIZER_FILES:
        if (path := files.directory / file).is_file():
            tokenizer.update(file.encode())
            tokenizer.update(path.read_bytes())
    return BaseModelCard(
        name=name,
        served_name=files.served_name,
        revision=files.revision,
        config_digest=hashlib.sha256((files.directory / "config.json").read_bytes()).hexdigest(),
        weights_digest=weights_digest(files.directory),
        tokenizer_digest=tokenizer.hexdigest(),
        parameters=sum(parameter.numel() for parameter in base.parameters()),
        dtype="bf16" if dtype is torch.bfloat16 else "fp32",
    )


def _shape(model: PeftModel) -> LoraShape:
    config: Any = model.peft_config["default"]
    return LoraShape(
        rank=config.r,
        alpha=config.lora_alpha,
        target_modules=tuple(sorted(config.target_modules)),
        parameters=sum(parameter.numel() for parameter in adapter_parameters(model).values()),
    )


def adapter_parameters(model: PeftModel) -> dict[str, Tensor]:
    """Return everything that is learnt, by the names PEFT publishes, in their order."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in sorted(model.named_parameters())
        if ".default." in name
    }


def head_parameters(model: PeftModel) -> list[Tensor]:
    """Return the parameters of the output head, those of an adapter that it has among them."""
    head: torch.nn.Module | None = model.get_base_model().get_output_embeddings()  # type: ignore[operator]
    return list(head.parameters()) if head is not None else []


def _longest(base: Any) -> int:
    return int(getattr(base.config, "max_position_embeddings", None) or 2**31)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
