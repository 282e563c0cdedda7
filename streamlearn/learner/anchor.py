"""Text of the user's own that is rehearsed so that it is not unlearnt (`anchor.file`)."""

from __future__ import annotations

import json
from pathlib import Path

from streamlearn.core.events import Chunk, Plain
from streamlearn.ports import Chunker, Fatal


def anchor_chunks(file: str | None, chunker: Chunker) -> tuple[Chunk, ...]:
    """Return the chunks of a JSONL (`{"text": …}`) or plain text file; none where no file is named.

    Raises:
        Fatal: the file cannot be read, or a line of it is no such object.
    """
    if file is None:
        return ()
    try:
        text = Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"anchor.file = {file!r} cannot be read: {error}") from None
    texts = _rows(file, text) if text.lstrip().startswith("{") else [text]
    chunks = tuple(chunk for text in texts for chunk in chunker.chunk(Plain(text=text)))
    if not chunks:
        raise Fatal(f"anchor.file = {file!r} holds no text to rehearse")
    return chunks


def _rows(file: str, text: str) -> list[str]:
    texts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise Fatal(f'anchor.file = {file!r}: line {number} is not a JSON object with a text: {{"text": "…"}}')
        texts.append(row["text"])
    return texts
