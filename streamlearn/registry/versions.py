"""Versions: plain PEFT directories whose manifest is written last.

Everything in a version follows from its checkpoint, so any writer can finish
one that its predecessor allocated, with the same bytes.
"""

from __future__ import annotations

from streamlearn.core.manifest import CheckpointState, Manifest, Totals, version_name
from streamlearn.ports import Fault, NotFound, ObjectStore, no_fault
from streamlearn.registry.checkpoints import read_state, write_once
from streamlearn.registry.documents import Damaged, digest_of, from_bytes, to_bytes
from streamlearn.registry.keys import MANIFEST, Keys

ADAPTER_MODEL, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def read_manifest(store: ObjectStore, keys: Keys, number: int) -> Manifest:
    """Return the manifest of a version; raises NotFound, Damaged."""
    key = keys.version(number, MANIFEST)
    return from_bytes(Manifest, key, store.get(key).body)


def write_version(
    store: ObjectStore,
    keys: Keys,
    *,
    checkpoint: str,
    state: CheckpointState,
    adapter: bytes,
    fault: Fault = no_fault,
) -> int:
    """Write the version that `state` was allocated and return the bytes written.

    Args:
        adapter: the checkpoint's `adapter.safetensors`.

    Raises:
        Damaged: other bytes are there already, or nothing tells the parent's totals any more.
    """
    number = state.version
    if number is None or state.adapter_config is None:
        raise Damaged(f"checkpoint {checkpoint} was allocated a version but does not say which")
    files = {ADAPTER_MODEL: adapter, ADAPTER_CONFIG: state.adapter_config.encode()}
    for name, body in files.items():
        write_once(store, keys.version(number, name), body)
        fault("version:half")
    manifest = Manifest(
        lineage=state.lineage,
        version=version_name(number),
        epoch=state.epoch,
        created_at=state.created_at,
        parent=None if state.parent_version is None else version_name(state.parent_version),
        checkpoint=checkpoint,
        base=state.base,
        lora=state.lora,
        progress=state.progress,
        totals=state.totals,
        since_parent=state.totals.minus(_totals_of_parent(store, keys, state)),
        event_time=state.event_time,
        config_digest=state.config_digest,
        libraries=state.libraries,
        scores=state.scores,
        judgement=state.judgement,
        files={name: digest_of(body) for name, body in files.items()},
    )
    body = to_bytes(manifest)
    write_once(store, keys.version(number, MANIFEST), body)
    return len(body) + sum(len(part) for part in files.values())


def _totals_of_parent(store: ObjectStore, keys: Keys, state: CheckpointState) -> Totals:
    """Return what the parent version had seen; its checkpoint knows where its manifest is lost."""
    if state.parent_version is None:
        return Totals()
    try:
        return read_manifest(store, keys, state.parent_version).totals
    except (NotFound, Damaged):
        earlier = state
        while earlier.version != state.parent_version:
            if earlier.parent is None:
                raise
            earlier = read_state(store, keys, earlier.parent)
        return earlier.totals
