"""Compiled functions as operators of a DALI graph.

DALI's plugin for Numba calls a function by its address, and hands it addresses. It would compile the function
that unpacks these anew in every process, for seconds; those here do the same and are kept on disk.
"""

from functools import cache
from typing import Any

from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction

from clotseg.dali.augment.compiled import run_alter, setup_alter
from clotseg.dali.augment.parameters import DataNode


def altered(images: DataNode, masks: DataNode, parameters: DataNode) -> tuple[DataNode, DataNode]:
    """Flips, grey levels, blur and CLAHE, as `compiled.alter` does them.

    Args:
        images, masks: uint8 HWC.
        parameters: float64, a row of `compiled.packed` a sample.
    """
    alter = compiled_operator(run_alter, setup_alter, types.UINT8, types.FLOAT64)
    return tuple(alter(images, masks, parameters))


@cache
def compiled_operator(
    run: Any, set_up: Any, of_outputs: types.DALIDataType, of_third: types.DALIDataType
) -> Any:
    """An operator: image and mask, uint8 HWC, and one more input of a single axis in; image and mask out.

    Args:
        run: a C function that makes a sample, of the signature `compiled.RUN`.
        set_up: one that tells how large outputs are, of the signature `compiled.SETUP`.
        of_outputs: type of the numbers in the outputs.
        of_third: the same of the third input.
    """
    return _Compiled(
        run_fn=run,
        setup_fn=set_up,
        out_types=[of_outputs, of_outputs],
        in_types=[types.UINT8, types.UINT8, of_third],
        outs_ndim=[3, 3],
        ins_ndim=[3, 3, 1],
        device="cpu",
    )


class _Compiled(NumbaFunction):  # type: ignore[misc]
    """Takes C functions as they are."""

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return int(run_fn.address)

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return int(setup_fn.address)
