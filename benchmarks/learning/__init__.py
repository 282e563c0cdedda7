"""Experiments that show whether learning from a stream helps, and what it costs.

    python -m benchmarks.learning list
    python -m benchmarks.learning live --seed 17 --json live.json --plot live.png
    python -m benchmarks.learning control --fast

Each runs on SmolLM2-135M and real text; with `--fast` on a tiny model and
made-up text, in seconds, to see that the experiment itself is sound: figures
of fast runs say nothing about learning. Arms see the same chunks and score
each before they learn it (`streamlearn.bench`); intervals are 95 % of a
paired bootstrap over blocks of 16 chunks. With `--json` a document names
stream, model, seeds, tokens, settings, machine and date beside the figures.
"""
