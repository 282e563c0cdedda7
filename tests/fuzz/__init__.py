"""Hostile and corrupt input: whatever comes in, what comes out is an answer of ours, in time, within memory."""
