"""Score, then learn, in one forward.

The loss of the training forward is the score of the fresh chunks, as the
weights have not seen them yet (prequential evaluation), so knowing how good
the live model is costs nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamlearn.config import LearnerSection
from streamlearn.core.batches import Draw, StepResult
from streamlearn.core.events import Chunk
from streamlearn.core.manifest import BaseModelCard, LoraShape
from streamlearn.learner import optimizers
from streamlearn.learner.model import Loaded, adapter_parameters
from streamlearn.learner.scoring import Scorer
from streamlearn.learner.snapshot import ADAPTER, OPTIMIZER, Snapshot, copied, tensors_in
from streamlearn.ports import Fatal


class LoraLearner:
    """Port `Learner` on PyTorch and PEFT."""

    def __init__(self, loaded: Loaded, settings: LearnerSection) -> None:
        self._loaded = loaded
        self._model = loaded.model
        self._scorer = Scorer(loaded)
        self._clip = settings.clip_norm
        self._parameters = adapter_parameters(loaded.model)
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._optimizer = optimizers.optimizer_of(settings, list(self._parameters.values()))

    @property
    def base(self) -> BaseModelCard:
        """Which model, exactly."""
        return self._loaded.base

    @property
    def lora(self) -> LoraShape:
        """The adapter's shape."""
        return self._loaded.lora

    # --- scoring and learning ---------------------------------------------------

    def step(self, batch: Sequence[Draw], learning_rate: float) -> StepResult:
        """Score every chunk of `batch`, then take one optimiser step on the mean loss per scored token."""
        began = time.perf_counter()
        chunks = [draw.chunk for draw in batch]
        scored = sum(chunk.scored_tokens for chunk in chunks)
        nll = np.zeros(len(chunks))
        for micro in self._scorer.batches(chunks):
            nll_C = self._scorer.nll(micro)
            (nll_C.sum() / scored).backward()  # type: ignore[no-untyped-call]
            nll[list(micro.places)] = nll_C.detach().double().cpu().numpy()
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip))
        applied = math.isfinite(norm) and bool(np.isfinite(nll).all())
        if applied:
            optimizers.set_rate(self._optimizer, learning_rate)
            self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(
            nll=tuple(nll.tolist()), gradient_norm=norm, applied=applied, seconds=time.perf_counter() - began
        )

    def base_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with the adapter off, shape (B,)."""
        with self._model.disable_adapter():
            return self.live_nll(chunks)

    def live_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with the adapter as it is, without learning, shape (B,)."""
        return self._scorer.scores(chunks)

    def complete(self, prompt: str, *, adapter: bool, max_new_tokens: int) -> str:
        """Return the most likely continuation of `prompt`, token by token, by the live model or the base."""
        tokenizer = self._loaded.tokenizer
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        # As in training: a text follows the start token.
        ids = torch.tensor(
            [[start, *tokenizer(prompt, add_special_tokens=False).input_ids]], device=self._loaded.device
        )
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._scorer.autocast())
            if not adapter:
                stack.enter_context(self._model.disable_adapter())
            out = self._model.generate(  # type: ignore[no-untyped-call]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.eos_token_id,
            )
        return str(tokenizer.decode(out[0][ids.shape[1] :], skip_special_tokens=True))

    # --- state --------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Copy adapter and optimiser to the CPU."""
        return Snapshot(
            adapter=copied(self._parameters),
            optimizer=copied(optimizers.tensors_of(self._optimizer, self._names)),
        )

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continue from the files of a snapshot.

        Raises:
            Fatal: they are of another adapter shape, or unreadable.
        """
        adapter, state = tensors_in(ADAPTER, files), tensors_in(OPTIMIZER, files)
        ours = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in adapter.items()}
        if ours != theirs:
            raise Fatal(_other_shape(ours, theirs))
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(adapter[name])
        try:
            optimizers.restore(self._optimizer, self._parameters, state)
        except KeyError as error:
            raise Fatal(f"the checkpoint's {OPTIMIZER} belongs to another adapter: {error.args[0]}") from None

    def adapter_config(self) -> bytes:
        """Return PEFT's `adapter_config.json`; the same adapter, the same bytes."""
        shape = self._model.peft_config["default"].to_dict()
        # PEFT keeps sets, whose order differs between processes.
        plain: dict[str, Any] = {
            key: sorted(value) if isinstance(value, set) else value for key, value in shape.items()
        }
        plain |= {"inference_mode": True, "lora_alpha": _whole(plain["lora_alpha"])}
        return (json.dumps(plain, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def _other_shape(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    name = next(iter(sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))))
    return (
        f"the lineage's adapter has another shape: {name} is {theirs.get(name, 'absent')} there and "
        f"{ours.get(name, 'absent')} here; set [lora] and [model] as they were, or begin a new stream.name"
    )


def _whole(value: float) -> float | int:
    """PEFT and servers write alpha as an integer where it is one."""
    return int(value) if float(value).is_integer() else value


def _plain(value: Any) -> Any:
    return getattr(value, "value", str(value))
