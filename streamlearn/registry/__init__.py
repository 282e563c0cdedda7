"""Checkpoints and versions of a lineage on an object store."""
