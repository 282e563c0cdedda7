"""Text of the user's own that is no part of the stream: to be rehearsed, or to measure forgetting on."""

from __future__ import annotations

import json
from pathlib import Path

from streamlearn.core.events import Chunk, Plain
from streamlearn.ports import Chunker, Fatal


def chunks_of_file(key: str, file: str | Path, chunker: Chunker) -> tuple[Chunk, ...]:
    """Return the chunks of a JSONL (`{"text": …}`) or plain text file.

    Args:
        key: of the configuration, for messages.

    Raises:
        Fatal: the file cannot be read, a line of it is no such object, or it holds nothing to learn from.
    """
    named = f"{key} = {str(file)!r}"
    try:
        text = Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"{named} cannot be read: {error}") from None
    texts = _rows(named, text) if text.lstrip().startswith("{") else [text]
    chunks = tuple(chunk for text in texts for chunk in chunker.chunk(Plain(text=text)))
    if not chunks:
        raise Fatal(f"{named} holds no text")
    return chunks


def _rows(named: str, text: str) -> list[str]:
    texts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise Fatal(f'{named}: line {number} is not a JSON object with a text: {{"text": "…"}}')
        texts.append(row["text"])
    return texts
