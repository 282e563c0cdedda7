"""Published adapters that are scored beside the live one, on the same loaded base.

Champion and candidate are each a PEFT adapter of their own; switching between
them costs a look at each layer, no copy of the base. Guests never learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
from peft import PeftModel
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError

from streamlearn.learner.model import known_warnings_unsaid
from streamlearn.ports import Fatal

LIVE = "default"
"""PEFT's own name for the first adapter, and in our state the one that learns."""


class Guests:
    """Adapters by name, beside the live one."""

    def __init__(self, model: PeftModel) -> None:
        self._model: Any = model

    @property
    def names(self) -> frozenset[str]:
        """Who is seated."""
        return frozenset(self._model.peft_config) - {LIVE}

    def seat(self, name: str, adapter: bytes) -> None:
        """Load `adapter_model.safetensors` of a version as `name`, in place of whoever sat there.

        Raises:
            Fatal: it is unreadable, or of another shape than the live adapter; then nobody sits there.
        """
        assert name != LIVE, "the live adapter is no guest"
        try:
            tensors = safetensors.torch.load(adapter)
        except SafetensorError as error:
            raise Fatal(f"the adapter of the {name} is no safetensors file: {error}") from error
        if name not in self._model.peft_config:
            with torch.random.fork_rng(devices=[]), known_warnings_unsaid():
                self._model.add_adapter(name, self._model.peft_config[LIVE])
        try:
            outcome: Any = set_peft_model_state_dict(self._model, tensors, adapter_name=name)
        except RuntimeError as error:
            self.leave(name)
            raise Fatal(f"the adapter of the {name} has another shape than the live one: {error}") from error
        if outcome.unexpected_keys or any(f".{name}." in key for key in outcome.missing_keys):
            # Half of it is loaded, and the other half is another's, or nothing's.
            self.leave(name)
            raise Fatal(f"the adapter of the {name} has other layers than the live one")
        self._settle()

    def leave(self, name: str) -> None:
        """Give a guest's memory back; nobody there is no error."""
        if name in self._model.peft_config and name != LIVE:
            self._model.delete_adapter(name)
            self._settle()

    @contextmanager
    def speaking(self, name: str) -> Iterator[None]:
        """Let guest `name` stand in for the live adapter while the block runs."""
        self._model.base_model.set_adapter(name, inference_mode=True)
        try:
            yield
        finally:
            self._settle()

    def _settle(self) -> None:
        """Make the live adapter the one that is asked and learns, and it alone."""
        self._model.base_model.set_adapter(LIVE)
