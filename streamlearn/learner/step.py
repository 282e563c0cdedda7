"""Score, then learn, in one forward.

The loss of the training forward is the score of the fresh chunks, as the
weights have not seen them yet (prequential evaluation), so knowing how good
the live model is costs nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamlearn.config import LearnerSection
from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.events import Chunk
from streamlearn.core.manifest import BaseModelCard, LoraShape
from streamlearn.learner import optimizers
from streamlearn.learner.guests import Guests
from streamlearn.learner.model import Loaded, adapter_parameters, head_parameters
from streamlearn.learner.scoring import Scorer
from streamlearn.learner.snapshot import OPTIMIZER, Snapshot, copied, tensors_in
from streamlearn.ports import ADAPTER, Fatal

_LIVE = "live"
"""Prefix, in the optimiser's file, of the weights that are learnt on; the adapter's file is what is published."""


class LoraLearner:
    """Port `Learner` on PyTorch and PEFT."""

    def __init__(self, loaded: Loaded, settings: LearnerSection, *, anchor_weight: float = 1.0) -> None:
        self._loaded = loaded
        self._anchor_weight = anchor_weight
        self._min_tokens = settings.min_step_tokens
        self._model = loaded.model
        self._scorer = Scorer(loaded)
        self.guests = Guests(loaded.model)
        self._parameters = adapter_parameters(loaded.model)
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._live = list(self._parameters.values())
        # B of B·A starts at zero, so B is how far the adapter has risen from its start.
        self._rises = [parameter for name, parameter in self._parameters.items() if ".lora_B." in name]
        self._served_average = settings.served_average
        self._served = [parameter.detach().clone() for parameter in self._live] if self._served_average else None
        head = {id(parameter) for parameter in head_parameters(loaded.model)}
        self._optimizer = optimizers.optimizer_of(
            settings,
            body=[parameter for parameter in self._live if id(parameter) not in head],
            head=[parameter for parameter in self._live if id(parameter) in head],
        )

    @property
    def base(self) -> BaseModelCard:
        """Which model, exactly."""
        return self._loaded.base

    @property
    def lora(self) -> LoraShape:
        """The adapter's shape."""
        return self._loaded.lora

    # --- scoring and learning ---------------------------------------------------

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        """Score every chunk of `batch`, then take one optimiser step.

        The loss is the mean NLL per scored token of the text, plus `anchor.weight` times the anchor's KL per such
        token: what the text teaches is not diluted by the anchor beside it. Few tokens are averaged as if they were
        `learner.min_step_tokens`, or a line would move the adapter as far as a page.
        """
        began = time.perf_counter()
        texts = [place for place, draw in enumerate(batch) if draw.role is not Role.ANCHOR]
        anchors = [place for place, draw in enumerate(batch) if draw.role is Role.ANCHOR]
        tokens = max(sum(batch[place].chunk.scored_tokens for place in texts), self._min_tokens)
        nll, passed_over = np.zeros(len(batch)), []
        for micro in self._scorer.batches([batch[place].chunk for place in texts]):
            places = [texts[each] for each in micro.places]
            nll_C = self._scorer.nll(micro)
            nll[places] = nll_C.detach().double().cpu().numpy()
            taught = [_teaches(batch[place], nll[place], plan) for place in places]
            passed_over += [place for place, learnt in zip(places, taught, strict=True) if not learnt]
            # By weight, not by selection: one loss for all, whatever is passed over.
            weights_C = torch.tensor(taught, dtype=nll_C.dtype, device=nll_C.device) / tokens
            (nll_C * weights_C).sum().backward()  # type: ignore[no-untyped-call]
        for micro in self._scorer.batches([batch[place].chunk for place in anchors]):
            kl_C = self._scorer.kl(micro)
            (kl_C.sum() * (self._anchor_weight / tokens)).backward()  # type: ignore[no-untyped-call]
            nll[[anchors[each] for each in micro.places]] = kl_C.detach().double().cpu().numpy()
        gradients = [parameter.grad for parameter in self._live if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        applied = math.isfinite(norm) and bool(np.isfinite(nll).all())
        scaled = plan.clip(norm) if applied else 1.0
        if applied:
            torch._foreach_mul_(gradients, scaled)
            self._move(plan)
        self._optimizer.zero_grad()
        return StepResult(
            nll=tuple(nll.tolist()),
            passed_over=tuple(sorted(passed_over)),
            gradient_norm=norm,
            scaled=scaled,
            applied=applied,
            seconds=time.perf_counter() - began,
        )

    @torch.no_grad()
    def _move(self, plan: StepPlan) -> None:
        optimizers.set_rate(self._optimizer, plan.learning_rate)
        if plan.turn:
            optimizers.forget_direction(self._optimizer)
        if plan.keep < 1.0:
            torch._foreach_mul_(self._rises, plan.keep)
        self._optimizer.step()
        if self._served is not None:
            torch._foreach_lerp_(self._served, self._live, 1.0 - self._served_average)

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

    def seat(self, name: str, adapter: bytes) -> None:
        """Load a published adapter as guest `name`; see `Guests.seat`."""
        self.guests.seat(name, adapter)

    def leave(self, name: str) -> None:
        """Give a guest's memory back; nobody there is no error."""
        self.guests.leave(name)

    def guest_nll(self, name: str, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with a guest's adapter, shape (B,)."""
        with self.guests.speaking(name):
            return self._scorer.scores(chunks)

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with the weights that would be published, shape (B,)."""
        if self._served is None:
            return self.live_nll(chunks)
        with self._served_in_place():
            return self._scorer.scores(chunks)

    @contextmanager
    def _served_in_place(self) -> Iterator[None]:
        assert self._served is not None, "an average is kept"
        live = [parameter.detach().clone() for parameter in self._live]
        with torch.no_grad():
            torch._foreach_copy_(self._live, self._served)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live, live)

    # --- state --------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Copy what is served, what is learnt on, and the optimiser to the CPU."""
        moments = optimizers.tensors_of(self._optimizer, self._names)
        if self._served is None:
            return Snapshot(adapter=copied(self._parameters), optimizer=copied(moments))
        served = dict(zip(self._parameters, self._served, strict=True))
        live = {f"{_LIVE}/{name}": parameter for name, parameter in self._parameters.items()}
        return Snapshot(adapter=copied(served), optimizer=copied(moments | live))

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
        # A lineage that served the newest step's weights until now begins its average with them.
        live = {name: state.pop(f"{_LIVE}/{name}", tensor) for name, tensor in adapter.items()}
        if ours != (theirs := {name: tuple(tensor.shape) for name, tensor in live.items()}):
            raise Fatal(_other_shape(ours, theirs))
        with torch.no_grad():
            for place, (name, parameter) in enumerate(self._parameters.items()):
                parameter.copy_(live[name])
                if self._served is not None:
                    self._served[place].copy_(adapter[name])
        try:
            optimizers.restore(self._optimizer, self._parameters, state)
        except KeyError as error:
            raise Fatal(f"the checkpoint's {OPTIMIZER} belongs to another adapter: {error.args[0]}") from None

    def begin_anew(self) -> None:
        """Forget what was learnt: B is zero again, and the optimiser knows nothing."""
        with torch.no_grad():
            torch._foreach_zero_(self._rises)
            if self._served is not None:
                torch._foreach_copy_(self._served, self._live)
        self._optimizer.state.clear()

    def adapter_config(self) -> bytes:
        """Return PEFT's `adapter_config.json`; the same adapter, the same bytes."""
        shape = self._model.peft_config["default"].to_dict()
        # PEFT keeps sets, whose order differs between processes.
        plain: dict[str, Any] = {
            key: sorted(value) if isinstance(value, set) else value for key, value in shape.items()
        }
        plain |= {"inference_mode": True, "lora_alpha": _whole(plain["lora_alpha"])}
        return (json.dumps(plain, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def _teaches(draw: Draw, nll: float, plan: StepPlan) -> bool:
    # What was drawn again was judged when it was fresh.
    return draw.role is not Role.FRESH or plan.accepted.junk(nll, draw.chunk.scored_tokens) is None


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
