"""Decisions only: no I/O, no torch, no clock of its own."""
