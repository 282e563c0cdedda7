"""What many teams run today: collect a day's events, fine-tune at night, serve the result the next day.

`transformers.Trainer` and PEFT as their documentation shows them. A chunk is
scored by the adapter of the night before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, Trainer, TrainingArguments

from streamlearn.core.events import Arrival, Chunk
from streamlearn.learner.batch import IGNORED
from streamlearn.learner.model import Loaded
from streamlearn.learner.scoring import Scorer

_BATCH = 4
NIGHTLY_RATE = 2e-4
"""PEFT's own examples' rate for LoRA."""
_EPOCHS = 2


class Nightly:
    """Retraining in batches, the adapter carried from night to night."""

    def __init__(self, loaded: Loaded, *, nights: int, seed: int, rate: float = NIGHTLY_RATE) -> None:
        self._loaded = loaded
        self._scorer = Scorer(loaded)
        self._nights = nights
        self._seed = seed
        self._rate = rate

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield the scores of a day's chunks, then train on them; days hold equally many tokens."""
        for day in _days(arrivals, self._nights):
            for arrival in day:
                yield from self._scorer.scores(arrival.chunks).tolist()
            self._train([chunk for arrival in day for chunk in arrival.chunks])

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return each chunk's score, shape (B,)."""
        return self._scorer.scores(chunks)

    def _train(self, chunks: Sequence[Chunk]) -> None:
        with tempfile.TemporaryDirectory(prefix="streamlearn-nightly-") as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=_BATCH,
                num_train_epochs=_EPOCHS,
                learning_rate=self._rate,
                bf16=self._loaded.dtype is torch.bfloat16,
                use_cpu=self._loaded.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                seed=self._seed,
            )
            rows: Any = [{"ids": chunk.ids, "scored": chunk.scored} for chunk in chunks]
            trainer = Trainer(model=self._loaded.model, args=arguments, train_dataset=rows, data_collator=_collated)
            # It prints each night's figures, and standard output is the table's.
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        self._loaded.model.eval()


def _days(arrivals: Sequence[Arrival], nights: int) -> Iterator[Sequence[Arrival]]:
    tokens = np.cumsum([sum(chunk.scored_tokens for chunk in arrival.chunks) for arrival in arrivals])
    ends = np.searchsorted(tokens, tokens[-1] * np.arange(1, nights + 1) / nights, side="left") + 1
    begin = 0
    for end in ends:
        if end > begin:
            yield arrivals[begin:end]
        begin = max(begin, int(end))


def _collated(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest, as the Trainer's own collator would."""
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        length = len(row["ids"])
        ids[place, :length] = torch.from_numpy(row["ids"].astype(np.int64))
        mask[place, :length] = 1
        labels[place, :length] = torch.where(torch.from_numpy(row["scored"]), ids[place, :length], IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
