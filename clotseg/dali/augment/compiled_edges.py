"""What lies beyond the edge of a slice, compiled for the CPU."""

from numba import njit


@njit(cache=True)  # type: ignore[untyped-decorator]
def mirrored(place: int, length: int) -> int:
    """Where a place on an axis falls when the axis is mirrored at its ends, which do not come twice."""
    if length == 1:
        return 0
    period = 2 * (length - 1)
    place = abs(place) % period
    return place if place < length else period - place
