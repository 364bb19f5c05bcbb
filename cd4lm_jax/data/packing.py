"""Which short rows share a canvas.

The plan is made once, from the lengths of all rows, so canvases are units that can be shuffled,
split among hosts and found again after a restart. What a row is trained on does not depend on its
neighbours: see `cd4lm_jax.corruption.views.Batch`.
"""

from __future__ import annotations

import bisect

import numpy as np

NONE = -1
"""Stands for no row where a canvas has fewer than it could."""


def pack(lengths: np.ndarray, room: int, most: int, seed: int = 0) -> np.ndarray:
    """Packs rows, the longest first, each into the fullest canvas that has room (best fit).

    Args:
        lengths: int `[rows]`, tokens of each, at most `room`.
        room: tokens of a canvas.
        most: rows of a canvas.
        seed: of the order among rows of one length.

    Returns:
        Places in `lengths`, int32 `[canvases, most]`; `NONE` after a canvas's last row.

    >>> pack(np.array([5, 3, 2, 6]), room=8, most=2).tolist()
    [[3, 2], [0, 1]]
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    canvases: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {}  # canvases that have so many tokens left
    rooms: list[int] = []  # its keys, ascending
    for row in order.tolist():
        length = int(lengths[row])
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            canvas, left = len(canvases), room - length
            canvases.append([row])
        else:
            canvas, left = open_by_room[rooms[at]].pop(), rooms[at] - length
            canvases[canvas].append(row)
            if not open_by_room[rooms[at]]:
                del open_by_room[rooms.pop(at)]
        if len(canvases[canvas]) < most:
            if left not in open_by_room:
                bisect.insort(rooms, left)
                open_by_room[left] = []
            open_by_room[left].append(canvas)
    packed = np.full((len(canvases), most), NONE, np.int32)
    for canvas, rows in enumerate(canvases):
        packed[canvas, : len(rows)] = rows
    return packed
