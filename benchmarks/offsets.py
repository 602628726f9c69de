"""Looks in a kernel's TTIR for 32-bit products that a large batch would overflow before they reach a pointer.

A number is *bounded* (constants, ranges, sizes of the model), a *block* number (a program's, or a count of blocks), or
an *index* that goes up to N: a block number times a constant, a size that depends on the batch (a kernel lists these in
``do_not_specialize``), a loop up to such a size. N itself is below 2^31, so sums are harmless; what overflows is an
index times anything, or a block number times a run-time size. 64-bit numbers are safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["narrow_products", "pointer_steps"]

BOUNDED, BLOCK, INDEX = range(3)

_RESULT = re.compile(r"^\s*(%[\w#:]+(?:, %[\w#:]+)*) = (.*)$")
_ARGUMENT = re.compile(r"(%\w+): ([^\s,{)]+)")
_VALUE = re.compile(r"%\w+(?:#\d+)?")
_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_FOR = re.compile(r"scf\.for (?:unsigned )?(%\w+) = (%[\w#]+) to (%[\w#]+) step (%[\w#]+)")
_ITERATED = re.compile(r"(%\w+) = (%[\w#]+)")
_CARRIED = ("tt.splat", "tt.expand_dims", "tt.broadcast")


class _Reader:
    """Two passes over the text, so that what a loop yields is known where it is carried in."""

    def __init__(self, text: str, arguments: list[str], growing: Iterable[str]) -> None:
        self.lines, self.arguments, self.growing = text.splitlines(), arguments, set(growing)
        self.kinds: dict[str, int] = {}
        self.suspects: dict[str, set[str]] = {}  # value -> source lines of the products it is made of
        self.constants: set[str] = set()
        self.found: dict[str, str] = {}
        self.loops: dict[int, tuple[str | None, list[str]]] = {}  # by indentation: results and carried values
        self.locations = dict(match.groups() for match in map(_LOCATION.match, self.lines) if match)

    def read(self) -> dict[str, str]:
        for _ in range(2):
            for line in self.lines:
                self.line(line)
        return self.found

    def mark(self, value: str, kind: int, suspects: set[str]) -> None:
        self.kinds[value] = max(kind, self.kinds.get(value, BOUNDED))
        self.suspects[value] = suspects | self.suspects.get(value, set())

    def kind(self, value: str) -> int:
        return self.kinds.get(value, BOUNDED)

    def suspect(self, values: Iterable[str]) -> set[str]:
        return set().union(*(self.suspects.get(value, set()) for value in values))

    def line(self, line: str) -> None:
        indent = len(line) - len(line.lstrip())
        match = _RESULT.match(line)
        if "tt.func" in line:
            for name, (value, kind) in zip(self.arguments, _ARGUMENT.findall(line)):
                self.mark(value, INDEX if kind == "i32" and name in self.growing else BOUNDED, set())
        elif "scf.for" in line or "scf.if" in line or "scf.while" in line:
            self.loop(line, indent, match.group(1).partition(":")[0] if match else None)
        elif line.lstrip().startswith("scf.yield") and indent - 2 in self.loops:
            results, carried = self.loops[indent - 2]
            for number, value in enumerate(_VALUE.findall(line.partition(" : ")[0])):
                targets = [f"{results}#{number}", *([results] if number == 0 and results else [])]
                for target in [*targets, *carried[number : number + 1]]:
                    self.mark(target, self.kind(value), self.suspect([value]))
        elif match:
            self.operation(*match.groups())

    def loop(self, line: str, indent: int, results: str | None) -> None:
        carried = _ITERATED.findall(line.partition("iter_args(")[2].partition(")")[0])
        self.loops[indent] = results, [inner for inner, _ in carried]
        match = _FOR.search(line)
        if match:
            counter, *ends = match.groups()
            self.mark(counter, max(self.kind(end) for end in ends), self.suspect(ends))
        for number, (inner, outer) in enumerate(carried):
            for target in (inner, f"{results}#{number}"):
                self.mark(target, self.kind(outer), self.suspect([outer]))

    def operation(self, result: str, text: str) -> None:
        body, _, where = text.partition(" loc(")
        name = body.split(" ", 1)[0]
        operands = _VALUE.findall(body.partition(" : ")[0])
        kinds = [self.kind(operand) for operand in operands] or [BOUNDED]
        kind, suspects = max(kinds), self.suspect(operands)
        fixed = [operand in self.constants for operand in operands]
        if name == "arith.constant" or (name in _CARRIED and fixed[0]):
            self.constants.add(result)
        elif name == "tt.get_program_id":
            kind = BLOCK
        elif name == "arith.muli" and re.search(r"(^|x)i32>?$", body.rpartition(" : ")[2].strip()):
            if INDEX in kinds or (BLOCK in kinds and not any(fixed)):
                suspects = suspects | {self.source(where)}
            kind = INDEX if BLOCK in kinds else kind
        elif name in ("arith.divsi", "arith.divui"):
            kind = min(kinds[0], BLOCK)
        elif name in ("arith.remsi", "arith.remui"):
            kind = min(kinds)
        elif name in ("tt.load", "arith.cmpi"):
            kind, suspects = BOUNDED, set()
        elif name == "tt.addptr":
            for line in self.suspect(operands[1:]):
                self.found.setdefault(line, body.strip())
            kind, suspects = BOUNDED, set()
        self.mark(result, kind, suspects)

    def source(self, where: str) -> str:
        """The kernel's own source line at a location like ``#loc7)``, names and call sites looked through."""
        text = where
        for _ in range(20):
            place = re.search(r'"([^"]+\.py)":(\d+):\d+', text)
            if place:
                return Path(place.group(1)).read_text(encoding="utf-8").splitlines()[int(place.group(2)) - 1].strip()
            following = re.search(r"#loc\d*", text)
            if following is None or following.group(0) not in self.locations:
                break
            text = self.locations[following.group(0)]
        return "unknown line"


def narrow_products(text: str, arguments: list[str], growing: Iterable[str]) -> dict[str, str]:
    """Source line -> pointer operation, of 32-bit products that may overflow for fewer than 2^31 rows.

    ``arguments``: the kernel's run-time arguments in order; ``growing``: those of them that depend on the batch.
    """
    return _Reader(text, arguments, growing).read()


def pointer_steps(text: str) -> int:
    """How many pointer additions there are: a check that the text was understood."""
    return len(re.findall(r"= tt\.addptr ", text))
