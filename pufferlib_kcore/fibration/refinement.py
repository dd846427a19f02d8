"""Refinement: color every space from the inputs on, spaces on a cycle together until nothing changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pufferlib_kcore.fibration import coloring
from pufferlib_kcore.fibration.partition import meet, number, one_block, singletons
from pufferlib_kcore.fibration.quotient import FOLD, Fibers, Merge, Table, Tensors, carry, wide
from pufferlib_kcore.fibration.recurrent import Join, State, Step, add, plain_step


@dataclass(frozen=True)
class Columns:
    """Parameters that stand side by side with others in a space's rows, and how several become one."""

    names: tuple[str, ...]
    join: Join = add


@dataclass(frozen=True)
class Producer:
    """What writes a space. Rows of all its gates are clustered together, then `step` makes fibers of them."""

    columns: tuple[Columns, ...]
    gates: int = 1
    step: Step = plain_step


@dataclass(frozen=True)
class Space:
    """One population of neurons."""

    name: str
    units: int
    kind: str  # "linear", "cnn", "lstm" or "critic"
    producers: tuple[Producer, ...]
    whole: str | None = None  # why it is never merged
    scales: bool = False  # whether a neuron g times as large only makes its readers' input g times as large
    rectified: bool = False  # whether it reads nothing below 0, and its readers read 0 where it is below 0


def color_spaces(
    spaces: Sequence[Space],
    tensors: Tensors,
    table: Table,
    thresholds: Mapping[str, float],
    published: bool = False,
    by_size: bool = False,
) -> dict[str, Merge]:
    """How every space merges: its fibers, and the gains of their neurons.

    thresholds  space -> cosine distance in [0, 2]
    published   the published recipe: at most 5 rounds on a cycle, recurrent biases left out of the colors;
                otherwise to the fixpoint, which takes at most as many rounds as there are units
    by_size     mind the rows' norms: where a space scales, scaled copies merge exactly, through gains; else
                the distance is |a - b|^2 / 2|a||b|, so that a row and its double are apart. Where a space is
                rectified, units that no input can make active go for free: into another fiber, with gain 0
    Returns {space: Merge}.
    """
    merges = {space.name: Merge.mean(singletons(space.units)) for space in spaces if space.whole}
    free = [space for space in spaces if not space.whole]
    for block in blocks(free, table):
        rounds = 5 if published else sum(space.units for space in block)
        found = refine(block, tensors, table, thresholds, merges, rounds, not published, by_size)
        for space in block:
            labels, gain = found[space.name], np.ones(space.units)
            if by_size and alone(space, block):
                rows = Rows(space, space.producers[0], tensors, table, (), True)
                gain = rows.norms(merges) if space.scales else gain
                dead = rows.dead(merges) if space.rectified else np.zeros(space.units, bool)
                if dead.any() and not dead.all():
                    labels = number(np.where(dead, labels[~dead][0], labels))
                    gain[dead] = 0
            merges[space.name] = Merge.mean(labels, gain)
    return {space.name: merges[space.name] for space in spaces}


def scaled(space: Space, block: Sequence[Space]) -> bool:
    """Whether scaled copies may merge: nothing bends in between, and no cycle leads back."""
    return space.scales and alone(space, block)


def alone(space: Space, block: Sequence[Space]) -> bool:
    """Whether one plain layer writes a space, and no cycle leads back to it."""
    return len(block) == len(space.producers) == 1 and space.producers[0].gates == 1


def reads(names: Collection[str], table: Table) -> set[str]:
    """The spaces that these parameters read."""
    return {s.space for name in names for axis in table[name] for s in axis if s.space and s.role == "in"}


def blocks(spaces: Sequence[Space], table: Table) -> Iterator[list[Space]]:
    """Spaces in an order in which each comes after all that it reads; those on a common cycle together."""
    index = {space.name: i for i, space in enumerate(spaces)}
    edges = [
        (index[source], target)
        for target, space in enumerate(spaces)
        for source in reads([n for p in space.producers for c in p.columns for n in c.names], table)
        if source in index
    ]
    shape = (len(spaces), len(spaces))
    source, target = np.array(edges, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (source, target)), shape=shape)
    _, block = connected_components(graph, connection="strong")
    before = TopologicalSorter({b: set() for b in block})
    for a, b in zip(block[source], block[target], strict=True):
        if a != b:
            before.add(b, a)
    for b in before.static_order():
        yield [space for space, of in zip(spaces, block, strict=True) if of == b]


def refine(
    block: Sequence[Space],
    tensors: Tensors,
    table: Table,
    thresholds: Mapping[str, float],
    given: Fibers,
    rounds: int,
    biased: bool = True,
    by_size: bool = False,
) -> dict[str, np.ndarray]:
    """Color spaces that read one another: start with one fiber each, split until nothing changes.

    given  fibers of the spaces read from outside the block. A space is colored again only when fibers it
    reads have changed. Above threshold 0 rounds may come back to where they were: that ends them, too.
    """
    fibers = {space.name: one_block(space.units) for space in block}
    rows = {
        s.name: [Rows(s, producer, tensors, table, set(fibers), biased) for producer in s.producers]
        for s in block
    }
    sizes: dict[str, bool | None] = {s.name: not scaled(s, block) if by_size else None for s in block}
    state: dict[str, list[State]] = {
        s.name: [(fibers[s.name], fibers[s.name]) for _ in s.producers] for s in block
    }
    stale, seen = set(fibers), set()
    for _ in range(rounds):
        now: dict[str, np.ndarray | Merge] = {**given, **fibers}
        for name in stale:
            state[name] = [
                r.producer.step(r.colors(now, thresholds[name], sizes[name]), past)
                for r, past in zip(rows[name], state[name], strict=True)
            ]
        new = {name: meet(*(s[-1] for s in state[name])) for name in stale}
        changed = {name for name in stale if not np.array_equal(new[name], fibers[name])}
        fibers |= new
        stale = {name for name in fibers if any(r.reads & changed for r in rows[name])}
        key = b"".join(p.tobytes() for states in state.values() for s in states for p in s)
        if key in seen:  # nothing was stale, or all is back where it was
            break
        seen.add(key)
    return fibers


class Rows:
    """The rows of one producer, as inner products; those of columns whose folding never changes are kept.

    moving  the spaces that are refined together with this one
    """

    def __init__(
        self,
        space: Space,
        producer: Producer,
        tensors: Tensors,
        table: Table,
        moving: Collection[str],
        biased: bool,
    ):
        self.space, self.producer, self.table = space, producer, table
        columns = [
            c
            for c in producer.columns
            if biased or space.kind != "lstm" or any(tensors[name].ndim > 1 for name in c.names)
        ]
        self.tensors = {name: wide(tensors[name]) for c in columns for name in c.names}
        self.reads = reads(self.tensors, table)
        self.folds = [c for c in columns if reads(c.names, table) & set(moving)]
        self.stays = [c for c in columns if c not in self.folds]
        self.kept: tuple[np.ndarray, np.ndarray] | None = None
        self.unfolded = np.sqrt(sum((self.block(c, {}) ** 2).sum(axis=1) for c in columns))

    def norms(self, fibers: Fibers) -> np.ndarray:
        """Norms of the rows, 1 for those that are zero.  -> (gates * units,)"""
        squares = np.sum([(self.block(c, fibers) ** 2).sum(axis=1) for c in self.stays], axis=0)
        return np.where(squares > 0, np.sqrt(squares), 1)

    def dead(self, fibers: Fibers) -> np.ndarray:
        """Units with no weight and no bias above 0.  -> (units,) of bool"""
        return np.all([(self.block(c, fibers) <= 0).all(axis=1) for c in self.stays], axis=0)

    def colors(self, fibers: Fibers, threshold: float, by_size: bool | None = None) -> np.ndarray:
        """Clusters of all gates' rows together.  -> (gates, units)"""
        if self.kept is None:
            n = len(self.unfolded)
            self.kept = self.added(self.stays, fibers, np.zeros(n), np.zeros(n * (n - 1) // 2))
        squares, products = (x.copy() if self.folds else x for x in self.kept)
        if not self.folds:
            self.kept = None  # it is overwritten
        squares, products = self.added(self.folds, fibers, squares, products)
        labels = coloring.cut(products, np.sqrt(squares), self.unfolded, threshold, by_size)
        return labels.reshape(self.producer.gates, -1)

    def added(
        self,
        columns: Sequence[Columns],
        fibers: Fibers,
        squares: np.ndarray,
        products: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """More columns of the rows: squared norms (rows,) and inner products of pairs (pairs,), in place."""
        for c in columns:
            block = self.block(c, fibers)
            squares += (block**2).sum(axis=1)
            coloring.inner_products(block, products)
        return squares, products

    def block(self, columns: Columns, fibers: Fibers) -> np.ndarray:
        """The folded rows of one block of columns.  -> (gates * units, D)"""
        return columns.join(*(self.folded(name, fibers) for name in columns.names))

    def folded(self, name: str, fibers: Fibers) -> np.ndarray:
        """A parameter's rows, its input axes summed over the fibers they read.  -> (gates * units, d)

        A complex number stands as two, its real and its imaginary part.
        """
        x = carry(self.tensors[name], self.table[name], fibers, FOLD)
        dim, written = next(
            (dim, s)
            for dim, axis in enumerate(self.table[name])
            for s in axis
            if s.role == "out" and s.space == self.space.name
        )
        gates, units = self.producer.gates, self.space.units
        x = x.movedim(dim, 0).reshape(gates, written.outer // gates, units, -1)
        rows = x.transpose(1, 2).reshape(gates * units, -1).contiguous()
        return (torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows).cpu().numpy()
