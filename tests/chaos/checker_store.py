"""The store's side of the checker: chain, digests, versions, aliases; see `checker`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from tests.chaos.evidence import Blob
from tests.chaos.findings import Fault

Objects: TypeAlias = Mapping[str, Blob]


@dataclass(frozen=True, slots=True)
class Link:
    """A committed checkpoint: its name and its `state.json`."""

    name: str
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chain:
    """The head and what it stands on, oldest first."""

    head: dict[str, Any]
    links: tuple[Link, ...]
    faults: tuple[Fault, ...]

    @staticmethod
    def of(objects: Objects) -> Chain:
        """Follow the parents from the head to the first."""
        if "head.json" not in objects:
            return Chain({}, (), (Fault("chain", "there is no head.json"),))
        head = json.loads(objects["head.json"].body)
        links: list[Link] = []
        faults: list[Fault] = []
        name, seen = head["checkpoint"], set[str]()
        while name is not None and name not in seen:
            seen.add(name)
            if (blob := objects.get(f"checkpoints/{name}/state.json")) is None:
                by = links[-1].name if links else "the head"
                faults.append(Fault("chain", f"{by} stands on checkpoint {name}, which is not there"))
                break
            if name.partition("-")[2] != blob.sha256[:12]:
                faults.append(Fault("broken_digest", f"checkpoint {name}: state.json is not the one of that name"))
            links.append(Link(name, json.loads(blob.body)))
            name = links[-1].state["parent"]
        links.reverse()
        return Chain(head, tuple(links), (*faults, *_links_in_order(head, links)))

    def leavings(self, objects: Objects) -> set[str]:
        """Return the checkpoints that nobody stands on."""
        there = {key.split("/")[1] for key in objects if key.startswith("checkpoints/")}
        return there - {link.name for link in self.links}


def of_objects(chain: Chain, objects: Objects) -> Iterator[Fault]:
    """Every object that a committed checkpoint names is there and is what was written."""
    for link in chain.links:
        expected = {f"checkpoints/{link.name}/{file}": digest for file, digest in link.state["files"].items()}
        expected[f"ledger/{link.name}.jsonl.gz"] = link.state["ledger"]
        for key, digest in expected.items():
            yield from _is("broken_digest", key, objects.get(key), digest)


def of_versions(chain: Chain, objects: Objects, *, drained: bool) -> Iterator[Fault]:
    """Each number was allocated by one checkpoint of the chain and is complete, the newest perhaps not yet."""
    allocated = {link.state["version"]: link for link in chain.links if link.state["version"] is not None}
    numbers = [link.state["version"] for link in chain.links if link.state["version"] is not None]
    newest = chain.head.get("version", 0)
    if numbers != list(range(1, newest + 1)):
        yield Fault("chain", f"the chain allocated versions {numbers}, and the head says that {newest} is the newest")
    for name in sorted({key.split("/")[1] for key in objects if key.startswith("versions/")}):
        if int(name.removeprefix("v")) not in allocated:
            yield Fault("half_version", f"{name} is there, and no checkpoint of the chain was allocated it")
    before: int | None = None
    for number, link in allocated.items():
        if f"versions/{_named(number)}/manifest.json" in objects:
            yield from _of_version(number, before, link, objects)
        elif drained or number != newest:
            yield Fault("half_version", f"{_named(number)} was allocated by checkpoint {link.name} and never finished")
        before = number


def of_aliases(chain: Chain, objects: Objects, *, drained: bool) -> Iterator[Fault]:
    """`latest` has followed each version in turn, and no writer has moved it after its epoch was over."""
    complete = complete_versions(objects)
    for key in sorted(key for key in objects if key.startswith("aliases/")):
        alias = json.loads(objects[key].body)
        moves = alias["history"]
        epochs = [move["epoch"] for move in moves] + [alias["epoch"], chain.head.get("epoch", 0)]
        if epochs != sorted(epochs):
            yield Fault("epoch", f"{key}: epochs go back: {_around(epochs)}")
        if any(late["from_version"] != early["to_version"] for early, late in pairwise(moves)):
            yield Fault("alias", f"{key}: a move does not begin where the one before ended")
        if moves and alias["version"] != moves[-1]["to_version"]:
            yield Fault("alias", f"{key} points at {alias['version']}, but was moved to {moves[-1]['to_version']}")
        if alias["version"] is not None and alias["version"] not in complete:
            yield Fault("half_version", f"{key} points at {alias['version']}, which is not complete")
    moved = [] if "aliases/latest.json" not in objects else json.loads(objects["aliases/latest.json"].body)["history"]
    targets = [move["to_version"] for move in moved]
    # A writer that died between manifest and alias leaves the newest out until the next one comes.
    due = [complete] if drained else [complete, complete[:-1]]
    if targets not in due:
        yield Fault(
            "alias", f"latest went through {_tail(targets)}, and these versions are complete: {_tail(complete)}"
        )


def complete_versions(objects: Objects) -> list[str]:
    """Return the names of the versions that have a manifest, oldest first."""
    names = {key.split("/")[1] for key in objects if key.startswith("versions/") and key.endswith("/manifest.json")}
    return sorted(names, key=lambda name: int(name.removeprefix("v")))


def _of_version(number: int, before: int | None, link: Link, objects: Objects) -> Iterator[Fault]:
    folder = f"versions/{_named(number)}"
    manifest = json.loads(objects[f"{folder}/manifest.json"].body)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        if file not in manifest["files"]:
            yield Fault("half_version", f"{folder}: its manifest does not name {file}")
    for file, digest in manifest["files"].items():
        kind = "broken_digest" if f"{folder}/{file}" in objects else "half_version"
        yield from _is(kind, f"{folder}/{file}", objects.get(f"{folder}/{file}"), digest)
    if manifest["files"].get("adapter_model.safetensors") != link.state["files"]["adapter.safetensors"]:
        yield Fault("half_version", f"{folder}: its adapter is not that of checkpoint {link.name}")
    expected = {"checkpoint": link.name, "version": _named(number), "epoch": link.state["epoch"]}
    expected |= {"parent": None if before is None else _named(before)}
    expected |= {part: link.state[part] for part in ("progress", "totals", "scores", "lineage")}
    for part, value in expected.items():
        if manifest[part] != value:
            yield Fault("half_version", f"{folder}: its manifest says {part} = {manifest[part]}, its chain {value}")
    yield from _is_an_adapter(f"{folder}/adapter_model.safetensors", objects)


def _is_an_adapter(key: str, objects: Objects) -> Iterator[Fault]:
    if key not in objects:
        return
    try:
        tensors = load(objects[key].body)
    except SafetensorError as error:
        yield Fault("half_version", f"{key} cannot be read: {error}")
        return
    if not tensors or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        yield Fault("half_version", f"{key} has no tensors, or numbers that are none")


def _links_in_order(head: dict[str, Any], links: list[Link]) -> Iterator[Fault]:
    """One chain from 1 on, and no epoch goes back along it."""
    for place, link in enumerate(links, start=links[0].state["seq"] if links else 1):
        if link.state["seq"] != place or int(link.name.partition("-")[0]) != place:
            yield Fault("chain", f"checkpoint {link.name} says that it is number {link.state['seq']}, not {place}")
    if links and links[0].state["parent"] is None and links[0].state["seq"] != 1:
        yield Fault("chain", f"the chain begins with number {links[0].state['seq']}")
    epochs = [(link.name, link.state["epoch"]) for link in links] + [("the head", head["epoch"])]
    for (early, old), (late, new) in pairwise(epochs):
        if new < old:
            yield Fault("epoch", f"{late} is of epoch {new}, and {early} before it of epoch {old}")


def _is(kind: Any, key: str, found: Blob | None, expected: dict[str, Any]) -> Iterator[Fault]:
    if found is None:
        yield Fault(kind, f"{key} is not there")
    elif (found.sha256, found.size) != (expected["sha256"], expected["size"]):
        yield Fault(kind, f"{key} has sha256 {found.sha256[:12]}…, and should have {expected['sha256'][:12]}…")


def _named(number: int) -> str:
    return f"v{number:06d}"


def _tail(names: list[str]) -> str:
    return f"{len(names)} up to {names[-1]}" if names else "none"


def _around(epochs: list[int]) -> str:
    place = next(place for place, (early, late) in enumerate(pairwise(epochs)) if late < early)
    return f"… {', '.join(map(str, epochs[max(place - 1, 0) : place + 3]))} …"
