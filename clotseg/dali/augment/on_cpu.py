"""The compiled functions as operators of a DALI graph.

DALI's plugin for Numba calls a function by its address, and hands it addresses. It would compile the function
that unpacks these anew in every process, for seconds; those here do the same and are kept on disk.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc
from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction, address_as_void_pointer

from clotseg.dali.augment.compiled import PARAMETERS, alter, place
from clotseg.dali.augment.parameters import DataNode

SETUP = "void(uint64, uint64, int32, uint64, uint64, int32, int32)"
"""Of outputs: shapes, numbers of axes, how many; the same of inputs; how many samples."""
RUN = "void(uint64, uint64, uint64, int32, uint64, uint64, uint64, int32)"
"""Of outputs: buffers, shapes, numbers of axes, how many; the same of inputs. One sample a call."""

WHITE = np.float32(1 / 255)
"""What an image's grey levels are multiplied by."""


def altered(images: DataNode, masks: DataNode, parameters: DataNode) -> tuple[DataNode, DataNode]:
    """Flips, grey levels, blur and CLAHE, as `compiled.alter` does them.

    Args:
        images, masks: uint8 HWC.
        parameters: float64, a row of `compiled.packed` a sample.
    """
    return tuple(_altering()(images, masks, parameters))


def placed(images: DataNode, masks: DataNode, size: int) -> tuple[DataNode, DataNode]:
    """Centre-padded and made float, as `compiled.place` does it.

    Args:
        images, masks: uint8 HWC.
        size: S, no smaller than any slice.

    Returns:
        Images float32 [S, S, C] of 0…1, and masks float32 [S, S, 1] of 0 and 1.
    """
    # An operator learns how large its outputs are from the shapes of its inputs alone.
    side = types.Constant(np.zeros(size, np.uint8), device="cpu")
    return tuple(_placing()(images, masks, side))


class _Compiled(NumbaFunction):  # type: ignore[misc]
    """Takes C functions as they are."""

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return int(run_fn.address)

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return int(setup_fn.address)


@cache
def _altering() -> Any:
    return _Compiled(
        run_fn=_alter,
        setup_fn=_keep_shapes,
        out_types=[types.UINT8, types.UINT8],
        in_types=[types.UINT8, types.UINT8, types.FLOAT64],
        outs_ndim=[3, 3],
        ins_ndim=[3, 3, 1],
        device="cpu",
    )


@cache
def _placing() -> Any:
    return _Compiled(
        run_fn=_place,
        setup_fn=_to_squares,
        out_types=[types.FLOAT, types.FLOAT],
        in_types=[types.UINT8, types.UINT8, types.UINT8],
        outs_ndim=[3, 3],
        ins_ndim=[3, 3, 1],
        device="cpu",
    )


@cfunc(SETUP, cache=True)  # type: ignore[untyped-decorator]
def _keep_shapes(
    out_shapes: int, _axes: int, outs: int, in_shapes: int, _in_axes: int, _ins: int, samples: int
) -> None:
    """The outputs are as large as the first inputs."""
    to = carray(address_as_void_pointer(out_shapes), (outs * samples,), np.int64)
    given = carray(address_as_void_pointer(in_shapes), (outs * samples,), np.int64)
    for place in range(outs * samples):
        carray(address_as_void_pointer(to[place]), (3,), np.int64)[:] = carray(
            address_as_void_pointer(given[place]), (3,), np.int64
        )


@cfunc(RUN, cache=True)  # type: ignore[untyped-decorator]
def _alter(
    outs: int, _shapes: int, _axes: int, _count: int, ins: int, in_shapes: int, _in_axes: int, _in_count: int
) -> None:
    to = carray(address_as_void_pointer(outs), (2,), np.int64)
    given = carray(address_as_void_pointer(ins), (3,), np.int64)
    shapes = carray(address_as_void_pointer(in_shapes), (2,), np.int64)
    sides = carray(address_as_void_pointer(shapes[0]), (3,), np.int64)
    rows, columns, channels = sides[0], sides[1], sides[2]
    alter(
        carray(address_as_void_pointer(given[0]), (rows, columns, channels), np.uint8),
        carray(address_as_void_pointer(given[1]), (rows, columns, 1), np.uint8),
        carray(address_as_void_pointer(given[2]), (PARAMETERS,), np.float64),
        carray(address_as_void_pointer(to[0]), (rows, columns, channels), np.uint8),
        carray(address_as_void_pointer(to[1]), (rows, columns, 1), np.uint8),
    )


@cfunc(SETUP, cache=True)  # type: ignore[untyped-decorator]
def _to_squares(
    out_shapes: int, _axes: int, outs: int, in_shapes: int, _in_axes: int, ins: int, samples: int
) -> None:
    to = carray(address_as_void_pointer(out_shapes), (outs * samples,), np.int64)
    given = carray(address_as_void_pointer(in_shapes), (ins * samples,), np.int64)
    side = carray(address_as_void_pointer(given[2 * samples]), (1,), np.int64)[0]
    for number in range(outs * samples):
        shape = carray(address_as_void_pointer(to[number]), (3,), np.int64)
        channels = carray(address_as_void_pointer(given[number]), (3,), np.int64)[2]
        shape[0], shape[1], shape[2] = side, side, channels


@cfunc(RUN, cache=True)  # type: ignore[untyped-decorator]
def _place(
    outs: int, _shapes: int, _axes: int, count: int, ins: int, in_shapes: int, _in_axes: int, _in_count: int
) -> None:
    to = carray(address_as_void_pointer(outs), (2,), np.int64)
    given = carray(address_as_void_pointer(ins), (2,), np.int64)
    shapes = carray(address_as_void_pointer(in_shapes), (3,), np.int64)
    side = carray(address_as_void_pointer(shapes[2]), (1,), np.int64)[0]
    for number in range(count):
        sides = carray(address_as_void_pointer(shapes[number]), (3,), np.int64)
        place(
            carray(address_as_void_pointer(given[number]), (sides[0], sides[1], sides[2]), np.uint8),
            WHITE if number == 0 else np.float32(1),
            carray(address_as_void_pointer(to[number]), (side, side, sides[2]), np.float32),
        )
