"""The worker that is measured: `streamlearn run --until-end`, but for the model.

python -m benchmarks.memory.worker -c streamlearn.toml [--made-up EVENTS]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.memory.number import CONTEXT_TOKENS, NumberLearner, WordChunker
from benchmarks.memory.records import MadeUpRecords
from streamlearn import bootstrap, config_file
from streamlearn.config import Config
from streamlearn.ingest.intake import Intake, open_intake
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.learner.open import OpenedLearner
from streamlearn.ports import Chunker, Clock, Telemetry
from streamlearn.telemetry import logs


def without_a_model(_config: Config) -> OpenedLearner:
    """Return a learner of one number in place of a model."""
    parts: dict[str, Any] = {"learner": NumberLearner(), "chunker": WordChunker()}
    return OpenedLearner(**parts, context_tokens=CONTEXT_TOKENS, anchor=lambda _: (), held_out=())


def main() -> None:
    """Learn the backlog and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--made-up", type=int, metavar="EVENTS")
    told = parser.parse_args()
    config = config_file.load(told.config)
    logs.configure(config.log.level, config.log.format, set())

    def made_up(config: Config, chunker: Chunker, telemetry: Telemetry, clock: Clock) -> Intake:
        lost = LostOffsets(config.kafka.on_lost_data)
        return open_intake(config, MadeUpRecords(told.made_up), lost, chunker, telemetry, clock)

    # Wired as any worker but for these: what is measured is the product's own.
    vars(bootstrap)["open_learner"] = without_a_model
    if told.made_up is not None:
        vars(bootstrap)["open_source"] = made_up
    bootstrap.run(config, until_end=True)


if __name__ == "__main__":
    main()
