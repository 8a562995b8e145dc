"""Which examples share a row: `pack`."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], most: float) -> list[list[int]]:
    """Return the indices of the examples in each row, such that no row has more than `most` tokens.

    The longest examples come first, each into the first row with room for it (first-fit decreasing, which needs at most
    11/9 of the fewest rows and 6/9 of a row; Dósa, 2007). An example that is longer than `most` has a row to itself.
    """
    rows: list[list[int]] = []
    room: list[float] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((at for at, left in enumerate(room) if left >= lengths[index]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(most)
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows
