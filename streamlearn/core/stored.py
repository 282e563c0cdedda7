"""What everything on the store is made of: bounded names and numbers, and models that refuse what they do not know.

Numbers and names have bounds, so that what is hostile or damaged is refused
where it is read, not where it is used.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CheckpointId = Annotated[str, StringConstraints(pattern=r"^[0-9]{10}-[0-9a-f]{12}$")]
VersionName = Annotated[str, StringConstraints(pattern=r"^v[0-9]{6,9}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=100)]
"""Becomes part of a key and, when a version is pulled, of a path."""
Epoch = Annotated[int, Field(ge=1, le=2**53)]
Partition = Annotated[int, Field(ge=0, lt=2**31)]
Offset = Annotated[int, Field(ge=0, lt=2**63)]
"""Kafka's; what is below 0 would mean an end of the log to its clients."""
Count = Annotated[int, Field(gt=-(2**63), lt=2**63)]
"""Negative only as a difference of what does not belong together."""


def _is_instant(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"}), AfterValidator(_is_instant)]
"""ISO 8601, UTC."""


class Stored(BaseModel):
    """Base of everything that is read back from a store: strict about what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )
