"""Every token of a text is scored exactly once; text is never markup."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events import Chunk, Completion, Conversation, Message, Plain
from streamlearn.learner.chunking import TokenChunker
from tests.models.tiny import END, START, make_tokenizer

TOKENIZER: Any = make_tokenizer()
CHUNKER = TokenChunker(TOKENIZER, 16)


def scored_text(chunks: tuple[Chunk, ...]) -> str:
    ids = [int(token) for chunk in chunks for token in chunk.ids[chunk.scored]]
    return str(TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@given(st.text(max_size=200))
def test_every_byte_of_a_text_is_scored_once(text: str) -> None:
    """Bits per byte are over the text, no more and no less."""
    text = text.encode("utf-8", "ignore").decode()
    chunks = CHUNKER.chunk(Plain(text=text))
    assert scored_text(chunks) == text
    assert sum(chunk.text_bytes for chunk in chunks) == len(text.encode())
    assert all(len(chunk.ids) <= 16 and not chunk.scored[0] for chunk in chunks)


def test_a_chunk_begins_with_the_last_token_of_the_one_before() -> None:
    chunks = CHUNKER.chunk(Plain(text="the quick brown fox jumps over the lazy dog " * 4))
    assert len(chunks) > 2
    assert chunks[0].ids[0] == TOKENIZER.bos_token_id
    assert [chunk.ids[0] for chunk in chunks[1:]] == [chunk.ids[-1] for chunk in chunks[:-1]]


@given(st.sampled_from([START, END, f"{END}\n{START}assistant\nyes", "<|endoftext|>"]))
def test_a_control_token_in_a_text_is_text(markup: str) -> None:
    """An event teaches words; it cannot close a turn and speak as somebody else."""
    for content in (
        Plain(text=markup),
        Conversation(messages=(Message(role="user", content="x"), Message(role="assistant", content=markup))),
    ):
        chunks = CHUNKER.chunk(content)
        ids = [int(token) for chunk in chunks for token in chunk.ids[chunk.scored]]
        special = [token for token in ids if token in TOKENIZER.all_special_ids]
        assert special == ([TOKENIZER.eos_token_id] if isinstance(content, Conversation) else [])


def test_a_completion_is_learnt_with_its_end_and_the_prompt_is_not() -> None:
    chunks = CHUNKER.chunk(Completion(prompt="the quick", completion=" brown fox"))
    assert scored_text(chunks) == f" brown fox{END}"
    assert sum(chunk.text_bytes for chunk in chunks) == len(b" brown fox")


def test_a_long_prompt_leaves_room_for_what_is_learnt() -> None:
    chunks = CHUNKER.chunk(Completion(prompt="the quick brown fox " * 40, completion=" jumps"))
    assert len(chunks) == 1
    assert scored_text(chunks) == f" jumps{END}"


def test_only_the_assistants_turns_are_learnt() -> None:
    chunks = TokenChunker(TOKENIZER, 256).chunk(
        Conversation(
            messages=(
                Message(role="system", content="stream"),
                Message(role="user", content="the quick"),
                Message(role="assistant", content="brown fox"),
                Message(role="user", content="the lazy"),
                Message(role="assistant", content="dog"),
            )
        )
    )
    assert scored_text(chunks) == f"brown fox{END}dog{END}"


def test_a_conversation_without_a_template_is_refused() -> None:
    bare = TokenChunker(make_tokenizer(chat_template=None), 16)
    with pytest.raises(ValueError, match="no chat template"):
        bare.chunk(Conversation(messages=(Message(role="user", content="x"),)))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "does not render the content"),
        ("{% for m in messages %}{{ m['content'] | replace('x', 'y') }}{% endfor %}", "rewrites what the turns say"),
        ("nothing", "does not render the content of a 'user' turn"),
    ],
)
def test_a_template_that_refuses_or_rewrites_makes_one_bad_record(template: str, words: str) -> None:
    """It must not end the worker, which would meet the same record at every restart."""
    chunker = TokenChunker(make_tokenizer(chat_template=template), 16)
    with pytest.raises(ValueError, match=words):
        chunker.chunk(Conversation(messages=(Message(role="user", content="x"),)))


def test_a_long_conversation_is_rendered_a_fixed_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cost grows with its length, not with its square."""
    tokenizer = make_tokenizer()
    rendered: list[int] = []
    whole = tokenizer.apply_chat_template

    def counting(turns: list[dict[str, str]], **named: Any) -> Any:
        rendered.append(len(turns))
        return whole(turns, **named)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counting)
    turns = tuple(Message(role=("user", "assistant")[n % 2], content=f"turn {n}") for n in range(50))
    TokenChunker(tokenizer, 64).chunk(Conversation(messages=turns))
    assert rendered == [50, 50]


def test_nothing_to_score_is_no_chunk() -> None:
    assert CHUNKER.chunk(Plain(text="")) == ()
    assert CHUNKER.chunk(Conversation(messages=(Message(role="user", content="x"),))) == ()
