"""Plain, slow, obvious references for the native core, written as the method words it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from uflow_cli.detection.nfa import AContrario

Cells = frozenset[tuple[int, int]]


@dataclass(eq=False)
class Node:
    """A connected component of an upper level set; `children` are the components inside it."""

    cells: Cells
    level: float
    children: list[Node] = field(default_factory=list)

    @property
    def area(self) -> int:
        return len(self.cells)


def flood_fill(mask: np.ndarray, seed: tuple[int, int]) -> Cells:
    """Cells of the 4-connected component of `mask` that holds `seed`."""
    reached = {seed}
    border = [seed]
    while border:
        row, column = border.pop()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= cell[0] < mask.shape[0] and 0 <= cell[1] < mask.shape[1]
            if inside and mask[cell] and cell not in reached:
                reached.add(cell)
                border.append(cell)
    return frozenset(reached)


def components(values: np.ndarray) -> dict[Cells, float]:
    """Every connected component of every upper level set {values >= t}, with its level: the lowest value in it."""
    found: dict[Cells, float] = {}
    for threshold in np.unique(values):
        mask = values >= threshold
        left = mask.copy()
        while left.any():
            cells = flood_fill(mask, tuple(np.argwhere(left)[0].tolist()))
            for cell in cells:
                left[cell] = False
            found[cells] = min(float(values[cell]) for cell in cells)
    return found


def component_tree(values: np.ndarray) -> Node:
    """The max-tree as nodes: a component's parent is the smallest component that holds it."""
    nodes = sorted((Node(cells, level) for cells, level in components(values).items()), key=lambda node: node.area)
    for i, node in enumerate(nodes[:-1]):
        next(other for other in nodes[i + 1 :] if node.cells < other.cells).children.append(node)
    return nodes[-1]


def nodes_of(root: Node) -> list[Node]:
    """The node and all below it, parents first."""
    found = [root]
    for node in found:
        found.extend(node.children)
    return found


def prune(root: Node, log_pfa: Callable[[Node], float]) -> tuple[Node, bool]:
    """PFA prune: of every chain from a leaf up to the next fork, only the node of lowest log_pfa stays."""
    parent = {id(child): node for node in nodes_of(root) for child in node.children}
    changed = False
    for leaf in [node for node in nodes_of(root) if not node.children]:
        chain = [leaf]
        while id(chain[-1]) in parent and len(parent[id(chain[-1])].children) == 1:
            chain.append(parent[id(chain[-1])])
        if len(chain) == 1:
            continue
        changed = True
        best = min(chain, key=log_pfa)  # the first of the lowest: the one nearest the leaf
        best.children = []
        above = parent.get(id(chain[-1]))
        if above is None:
            root = best
        else:
            above.children[above.children.index(chain[-1])] = best
    return root, changed


def merge(root: Node, log_pfa: Callable[[Node], float]) -> bool:
    """PFA merge: a node all of whose children are leaves, with log_pfa <= the lowest of theirs, becomes a leaf.

    All at once: what has just become a leaf is pruned before it can be merged, which matters where log_pfa ties.
    """
    ready = [
        node
        for node in nodes_of(root)
        if node.children
        and not any(child.children for child in node.children)
        and log_pfa(node) <= min(log_pfa(child) for child in node.children)
    ]
    for node in ready:
        node.children = []
    return bool(ready)


def regions(values: np.ndarray, log_tail: Callable[[float], float]) -> list[Node]:
    """The regions that iterated prune and merge leave, of log_pfa < 0, in the order of their first cells."""

    def log_pfa(node: Node) -> float:
        return node.area * log_tail(node.level)

    root = component_tree(values)
    changed = True
    while changed:
        root, pruned = prune(root, log_pfa)
        merged = merge(root, log_pfa)
        changed = pruned or merged
    leaves = [node for node in nodes_of(root) if not node.children and log_pfa(node) < 0]
    return sorted(leaves, key=lambda node: min(node.cells))


def paint(
    shape: tuple[int, ...], found: list[Node], log_tail: Callable[[float], float]
) -> tuple[np.ndarray, np.ndarray]:
    """log_pfa map (0 outside regions) and label map (-1 outside)."""
    log_pfa = np.zeros(shape)
    labels = np.full(shape, -1)
    for label, node in enumerate(found):
        for cell in node.cells:
            log_pfa[cell] = node.area * log_tail(node.level)
            labels[cell] = label
    return log_pfa, labels


def log_pfa_map(found: AContrario, scale: int = 0) -> np.ndarray:
    """log_pfa of the region of each cell, (B, H_s, W_s), 0 outside: what the table and the label maps come to."""
    painted = np.zeros(found.labels[scale].shape)
    for i in np.flatnonzero(found.regions.scale == scale):
        image = found.regions.image[i]
        painted[image][found.labels[scale][image] == found.regions.label[i]] = found.regions.log_pfa[i]
    return painted


def bottom_up_regions(
    values: np.ndarray, parent: np.ndarray, order: np.ndarray, log_tail: Callable[[float], float]
) -> list[tuple[float, int, float]]:
    """(level, area, log_pfa) of the regions of log_pfa < 0, by a single pass over a given max-tree.

    A node is closed if the iteration would turn it into a leaf; `best` is the node that then stands for it. `parent`
    and `order` are scikit-image's: flat, parents before children. For maps too large for `regions`.
    """
    flat = values.ravel()
    parent = parent.ravel()
    root = int(order[0])
    nodes = [int(p) for p in order if p == root or flat[parent[p]] != flat[p]]
    area = dict.fromkeys(range(flat.size), 1)
    for p in reversed(order[1:].tolist()):
        area[int(parent[p])] += area[p]
    children: dict[int, list[int]] = {node: [] for node in nodes}
    for node in nodes:
        if node != root:
            children[int(parent[node])].append(node)

    log_pfa = {node: area[node] * log_tail(float(flat[node])) for node in nodes}
    best: dict[int, int | None] = {}  # None: open
    for node in reversed(nodes):
        bests = [best[child] for child in children[node]]
        closed = [b for b in bests if b is not None]
        if len(closed) < len(bests):
            best[node] = None
        elif len(bests) == 1:
            best[node] = closed[0] if log_pfa[closed[0]] <= log_pfa[node] else node
        else:
            best[node] = node if all(log_pfa[node] <= log_pfa[b] for b in closed) else None

    found = []
    for node in nodes:
        speaker = best[node]
        maximal = node == root or best[int(parent[node])] is None
        if speaker is not None and maximal and log_pfa[speaker] < 0:
            found.append((float(flat[speaker]), area[speaker], log_pfa[speaker]))
    return found


def up_sample(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, align_corners=False: between the centres of the cells around each finer centre; flat outside them."""
    for axis, n in enumerate(size):
        cells = values.shape[axis]
        centres = (np.arange(n) + 0.5) * cells / n - 0.5
        lines = np.moveaxis(values, axis, -1)
        finer = np.stack([np.interp(centres, np.arange(cells), line) for line in lines])
        values = np.moveaxis(finer, -1, axis)
    return values


def evidence(maps: list[np.ndarray], laws: list[tuple[float, float]], weights: list[float]) -> np.ndarray:
    """Weighted mean of ln(1 + c) of U maps (H_s, W_s) of one image; a law is (degrees of freedom, mean)."""
    size = (max(u.shape[0] for u in maps), max(u.shape[1] for u in maps))
    total = np.zeros(size)
    for u, (k, mean), weight in zip(maps, laws, weights, strict=True):
        r = np.maximum(u.astype(np.float64) / mean, 1.0)
        total += weight * np.log1p(up_sample(k / 2 * (r - 1 - np.log(r)), size))
    return total / sum(weights)
