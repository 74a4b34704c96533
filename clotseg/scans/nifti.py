"""NIfTI: a volume as it was stored in; HU along the network's axes out, and masks the way back.

The network's axes are [row, column, slice], growing to the back, the left and the head of the patient, as a
radiologist looks at a slice. A volume stored along other axes is turned by whole quarters and mirrored, never
resampled, so no HU value changes; the nearest axes are taken where a volume is oblique.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.prep.cases import Volume
from clotseg.prep.table import Spacing

Image = Any  # nibabel ships no types
Affine = NDArray[np.float64]

NIFTI_SUFFIXES = (".nii.gz", ".nii")

NETWORK_AXES = ("P", "L", "S")
"""The patient's side that row, column and slice grow to."""
LARGEST_SHIFT = 0.1
"""Voxels by which two grids may be apart at their corners and still be taken for one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NiftiVolume:
    """A volume in the network's axes.

    Attributes:
        hu: [row, column, slice].
        affine: 4×4 float64, from (row, column, slice, 1) to mm in the patient, RAS+.
        stored: the image as it is on disk: its axes, its affine and its header.
    """

    hu: Volume
    affine: Affine
    stored: Image

    @property
    def spacing_mm(self) -> Spacing:
        """Millimetres between voxel centres along row, column and slice."""
        row, column, between_slices = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(row), float(column), float(between_slices)


def read_nifti(path: Path) -> NiftiVolume:
    """Reads a volume.

    Raises:
        DataError: it is no NIfTI, not 3-D, or does not say how it lies in the patient.
    """
    import nibabel
    from nibabel import orientations

    faults_of_nibabel = (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    )
    try:
        image = nibabel.load(path)
        values = _values(image)
    except (OSError, ValueError, EOFError, zlib.error, *faults_of_nibabel) as error:
        raise DataError(f"cannot be read as NIfTI ({error})", where=path.name) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(f"is no NIfTI, but a {type(image).__name__}", where=path.name)
    if values.dtype.kind not in "iuf":
        raise DataError(f"holds no single number a voxel, but {values.dtype}", where=path.name)
    if values.ndim != 3:
        raise DataError(f"has shape {values.shape}; one 3-D volume is needed", where=path.name)
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise DataError(
            "does not say how it lies in the patient (sform and qform code are 0)",
            where=path.name,
            fix="export it again with its orientation, or give .npy volumes [row, column, slice]",
        )
    turn = orientations.ornt_transform(_axes(image, path), orientations.axcodes2ornt(NETWORK_AXES))
    return NiftiVolume(
        hu=orientations.apply_orientation(values, turn),
        affine=image.affine @ orientations.inv_ornt_aff(turn, image.shape),
        stored=image,
    )


def along_stored_axes(values: NDArray[Any], stored: Image) -> NDArray[Any]:
    """Values of the network's axes along the axes of a stored image."""
    from nibabel import orientations

    turn = orientations.ornt_transform(
        orientations.axcodes2ornt(NETWORK_AXES), orientations.io_orientation(stored.affine)
    )
    return np.asarray(orientations.apply_orientation(values, turn))


def _values(image: Image) -> Volume:
    """What is stored, as it is; as float32 where a slope or an intercept is to be applied."""
    proxy = image.dataobj
    if proxy.slope in (None, 1) and proxy.inter in (None, 0):
        return np.asanyarray(proxy)
    return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))


def _axes(image: Image, path: Path) -> NDArray[Any]:
    from nibabel import orientations

    if np.isfinite(image.affine).all() and np.linalg.matrix_rank(image.affine[:3, :3]) == 3:
        return np.asarray(orientations.io_orientation(image.affine))
    raise DataError(f"has an affine that is none: {image.affine.tolist()}", where=path.name)


def require_same_grid(cta: NiftiVolume, ncct: NiftiVolume) -> None:
    """Refuses an NCCT that does not lie on the CTA's grid; along which axes each is stored does not matter.

    Raises:
        DataError: the shapes differ, or some corners lie more than a tenth of a voxel apart.
    """
    fix = "register the NCCT to the CTA and resample it to the CTA's grid first"
    if cta.hu.shape != ncct.hu.shape:
        raise DataError(f"the CTA has shape {cta.hu.shape}, the NCCT {ncct.hu.shape}", fix=fix)
    apart_mm = corners_apart_mm(cta.hu.shape, cta.affine, ncct.affine)
    if apart_mm > LARGEST_SHIFT * min(cta.spacing_mm):
        raise DataError(f"CTA and NCCT lie up to {apart_mm:.2f} mm apart in the patient", fix=fix)


def corners_apart_mm(shape: tuple[int, ...], one: Affine, other: Affine) -> float:
    """How far the farthest corner of a grid of voxels lies from itself under another affine, in mm."""
    corners = np.array(np.meshgrid(*((0, side - 1) for side in shape), indexing="ij")).reshape(3, -1)
    places = [affine[:3, :3] @ corners + affine[:3, 3:] for affine in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=0).max())


def write_nifti(path: Path, values: NDArray[Any], like: NiftiVolume) -> None:
    """Writes a volume of the network's axes along the axes of a stored one, with its affine and header.

    Args:
        path: `.nii` or `.nii.gz`.
        values: [row, column, slice] of `like.hu`'s shape; uint8 or float32.
        like: whose grid it is.
    """
    stored = like.stored
    header = stored.header.copy()
    header.extensions.clear()  # They describe the scan, and may name the patient.
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = b""
    native = np.ascontiguousarray(along_stored_axes(values, stored))
    type(stored)(native, stored.affine, header).to_filename(path)
