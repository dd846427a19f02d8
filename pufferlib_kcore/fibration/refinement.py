"""Refinement: color every space from the inputs on, spaces on a cycle together until nothing changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pufferlib_kcore.fibration import coloring, identity
from pufferlib_kcore.fibration.partition import meet, number, one_block, singletons
from pufferlib_kcore.fibration.quotient import FOLD, Fibers, Merge, Table, Tensors, carry, wide
from pufferlib_kcore.fibration.recurrent import Join, State, Step, add, plain_step

CLUSTERINGS = 8  # of a space on a cycle above threshold 0; after these its fibers are only split


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

    thresholds  space -> cosine distance in [0, 2]. 0: identical to the rounding of the parameters' dtype, in
                each column; above, at least 1e-6
    published   the published recipe: at most 5 rounds on a cycle, recurrent biases left out of the colors,
                and 1e-6 for 0; otherwise to the fixpoint (see `refine`)
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
    given: Mapping[str, Merge],
    rounds: int,
    biased: bool = True,
    by_size: bool = False,
) -> dict[str, np.ndarray]:
    """Color spaces that read one another: start with one fiber each, split until nothing changes.

    given  fibers of the spaces read from outside the block. A space is colored again only when fibers it
    reads have changed.

    At threshold 0 the end is exact: rows of one fiber agree, folded by the fibers that were found. Above it,
    where nothing is exact, spaces are clustered anew for at most 8 rounds, each of which costs rows^2 (where
    they come back to where they were, that is the end). What is not at rest by then is only split, by `part`,
    until each row is on average within the threshold of its fiber's rows: at most as many rounds as there are
    units, each of which costs as much as reading the rows.
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
    for turn in range(rounds):
        parting = turn >= CLUSTERINGS
        now = {**given, **{name: Merge.mean(labels) for name, labels in fibers.items()}}
        now = {name: merge for name, merge in now.items() if merge.changes}
        for name in stale:
            state[name] = [
                r.producer.step(r.colors(now, thresholds[name], sizes[name], fibers[name], parting), past)
                for r, past in zip(rows[name], state[name], strict=True)
            ]
        new = {name: meet(*(s[-1] for s in state[name])) for name in stale}
        changed = {name for name in stale if not np.array_equal(new[name], fibers[name])}
        fibers |= new
        stale = {n for n in fibers if any(r.reads & changed for r in rows[n]) and may_split(state[n])}
        key = parting, b"".join(p.tobytes() for states in state.values() for s in states for p in s)
        if key in seen:  # nothing was stale, or all is back where it was
            break
        seen.add(key)
    return fibers


def may_split(states: Sequence[State]) -> bool:
    """Whether a space may change: not where all that one producer carries on tells every unit apart."""
    return not any(all(len(p) == p.max() + 1 for p in state) for state in states)


class Rows:
    """The rows of one producer; what comes of columns whose folding never changes is kept.

    moving  the spaces that are refined together with this one
    biased  False: the published recipe
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
        self.space, self.producer, self.table, self.published = space, producer, table, not biased
        self.columns = [
            c
            for c in producer.columns
            if biased or space.kind != "lstm" or any(tensors[name].ndim > 1 for name in c.names)
        ]
        self.tensors = {name: wide(tensors[name]) for c in self.columns for name in c.names}
        self.precision = [coarsest(tensors[name].dtype for name in c.names) for c in self.columns]
        self.reads = reads(self.tensors, table)
        self.folds = [c for c in self.columns if reads(c.names, table) & set(moving)]
        self.stays = [c for c in self.columns if c not in self.folds]
        self.kept: tuple[np.ndarray, np.ndarray] | None = None
        self.unfolded = np.sqrt(sum((self.block(c, {}) ** 2).sum(axis=1) for c in self.columns))

    def norms(self, fibers: Fibers) -> np.ndarray:
        """Norms of the rows, 1 for those that are zero.  -> (gates * units,)"""
        squares = np.sum([(self.block(c, fibers) ** 2).sum(axis=1) for c in self.stays], axis=0)
        return np.where(squares > 0, np.sqrt(squares), 1)

    def dead(self, fibers: Fibers) -> np.ndarray:
        """Units with no weight and no bias above 0.  -> (units,) of bool"""
        return np.all([(self.block(c, fibers) <= 0).all(axis=1) for c in self.stays], axis=0)

    def colors(
        self, fibers: Fibers, threshold: float, by_size: bool | None, within: np.ndarray, parting: bool
    ) -> np.ndarray:
        """Colors of all gates' rows.  -> (gates, units)

        within   labels of the units, (units,): those apart are not compared, at threshold 0 or
        parting  where groups are only split
        """
        gates, units = self.producer.gates, len(within)
        exact = threshold == 0 and not self.published
        if not exact and not parting:
            return self.clustered(fibers, threshold, by_size).reshape(gates, -1)
        groups = number((within + units * np.arange(gates)[:, None]).ravel())
        if within.max() + 1 < units and threshold < 2:
            alike = self.identical if exact else self.parted
            groups = alike(fibers, groups, threshold, by_size)
        return groups.reshape(gates, -1)

    def clustered(self, fibers: Fibers, threshold: float, by_size: bool | None) -> np.ndarray:
        """Clusters of all rows together.  -> (gates * units,)"""
        if self.kept is None:
            n = len(self.unfolded)
            self.kept = self.added(self.stays, fibers, np.zeros(n), np.zeros(n * (n - 1) // 2))
        squares, products = (x.copy() if self.folds else x for x in self.kept)
        if not self.folds:
            self.kept = None  # it is overwritten
        squares, products = self.added(self.folds, fibers, squares, products)
        return coloring.cut(products, np.sqrt(squares), self.unfolded, threshold, by_size)

    def identical(
        self, fibers: Fibers, groups: np.ndarray, threshold: float, by_size: bool | None
    ) -> np.ndarray:
        """Groups of rows that are one to rounding.  -> (gates * units,)

        by_size  False: compare directions, whatever the norms
        """
        rows = self.side_by_side(fibers)
        slack = self.rounding(fibers)
        if by_size is False:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            norms[norms == 0] = 1
            slack += np.abs(rows) * np.linalg.norm(slack, axis=1, keepdims=True) / norms
            rows, slack = rows / norms, slack / norms
        return identity.same(rows, slack, groups)

    def parted(
        self, fibers: Fibers, groups: np.ndarray, threshold: float, by_size: bool | None
    ) -> np.ndarray:
        """Groups, those that are too wide split.  -> (gates * units,)"""
        rows = self.side_by_side(fibers)
        dead = np.linalg.norm(rows, axis=1) <= coloring.SAME * self.unfolded
        return coloring.part(np.where(dead[:, None], 0, rows), threshold, groups, bool(by_size))

    def side_by_side(self, fibers: Fibers) -> np.ndarray:
        """All columns of the rows.  -> (gates * units, D)"""
        return np.hstack([self.block(c, fibers) for c in self.columns])

    def rounding(self, fibers: Fibers) -> np.ndarray:
        """How far off entries may be, by the dtype of what was summed to them.  -> (gates * units, D)"""
        terms = [np.abs(self.block(c, fibers, sizes=True)) for c in self.columns]
        eps, least = np.repeat(self.precision, [x.shape[1] for x in terms], axis=0).T
        return identity.rounding(np.hstack(terms), eps, least)

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

    def block(self, columns: Columns, fibers: Fibers, sizes: bool = False) -> np.ndarray:
        """The folded rows of one block of columns, or of their sizes.  -> (gates * units, D)"""
        return columns.join(*(self.folded(name, fibers, sizes) for name in columns.names))

    def folded(self, name: str, fibers: Fibers, sizes: bool = False) -> np.ndarray:
        """A parameter's rows, its input axes summed over the fibers they read.  -> (gates * units, d)

        A complex number stands as two, its real and its imaginary part.
        """
        own = self.tensors[name]
        x = carry(own.abs() if sizes else own, self.table[name], fibers, FOLD)
        dim, written = next(
            (dim, s)
            for dim, axis in enumerate(self.table[name])
            for s in axis
            if s.role == "out" and s.space == self.space.name
        )
        gates, units = self.producer.gates, self.space.units
        x = x.movedim(dim, 0).reshape(gates, max(written.outer // gates, 1), units, -1)
        rows = x.transpose(1, 2).reshape(gates * units, -1).contiguous()
        if own.is_complex():
            rows = rows.repeat_interleave(2, 1) if sizes else torch.view_as_real(rows).flatten(1)
        return rows.cpu().numpy()


def coarsest(dtypes: Iterable[torch.dtype]) -> tuple[float, float]:
    """The coarsest of these dtypes: distance from 1 to the next number, and smallest normal number."""
    kinds = [torch.finfo(d if d.is_floating_point or d.is_complex else torch.float64) for d in dtypes]
    return max((kind.eps, kind.tiny) for kind in kinds)
