"""Tests of what `check` and `produce` ask of brokers."""
