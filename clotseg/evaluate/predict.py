"""`clotseg predict`: a checkpoint and patients without masks in; masks, probabilities and measurements out.

Each case becomes a folder of its own, published in one step, so a killed command is simply run again: what is
done is not done twice. A case that cannot be used does not keep the others from being predicted, and what was
predicted from other volumes, weights or settings is never written over unless that is asked for.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from clotseg import artifact
from clotseg.config import Config, load_config, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError, DataError, require_none_failed
from clotseg.evaluate.clot import MEASUREMENT_COLUMNS, ClotMeasurement, measure_clots
from clotseg.evaluate.infer import Predictor, Volumes, load_predictor
from clotseg.evaluate.operating_point import cut_in_force, find_point
from clotseg.evaluate.patients import Patient, find_patients
from clotseg.evaluate.segment import Cut, Segmentation, segment
from clotseg.prep.cases import array_fault, hu_faults, open_volume
from clotseg.prep.table import Spacing
from clotseg.scans.nifti import Affine, NiftiVolume, read_nifti, require_same_grid, write_nifti
from clotseg.scans.origin import Origin, read_origin
from clotseg.train.checkpoint import find_checkpoint, read_description, run_of
from clotseg.train.devices import open_devices

PREDICT_CODE_VERSION = 3
TABLE = "predictions.csv"
COLUMNS = ("case", "clots", "doubt", "spread", *MEASUREMENT_COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenedPatient:
    """A patient's volumes, checked.

    Attributes:
        volumes: in the network's axes.
        spacing_mm: of these axes, None where it is not known.
        affine: from these axes to the patient, None where it is not known.
        stored: the volume whose grid NIfTI results are written on; None for .npy.
        origin: the way back to the scan, of an imported case.
    """

    volumes: Volumes
    spacing_mm: Spacing | None
    affine: Affine | None
    stored: NiftiVolume | None
    origin: Origin | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """What predicts.

    Attributes:
        predictor: gives the networks, loaded when they are first asked for.
        weights: SHA-256 of the weights of each.
        tta: whether flipped slices are averaged.
        cut: how probabilities become masks.
        take_one_volume: whether all were trained to do without CTA or NCCT now and then.
    """

    predictor: Callable[[], Predictor]
    weights: tuple[str, ...]
    tta: bool
    cut: Cut
    take_one_volume: bool


def predict(
    config: Config,
    progress: Progress,
    *,
    checkpoints: Sequence[Path],
    inputs: Sequence[Path],
    out: Path,
    tta: bool | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predicts every case, and writes `predictions.csv` over all cases in `out`.

    Args:
        config: devices; the threshold, where one was set; flips.
        progress: told of each case.
        checkpoints: runs, checkpoint folders or weights files; several are an ensemble.
        inputs: see `find_patients`.
        out: the folder for the results, made where it is not there.
        tta: whether flipped slices are averaged; None for as the network was tested, or, where it was not, as
            the settings say.
        overwrite: whether results of other volumes, weights or settings are replaced.

    Returns:
        `{"out", "table", "cut", "cases"}`; each case with its `state`, one of `done`, `reused` and `failed`,
        the number of `clots`, its `doubt`, and what the `problem` was.

    Raises:
        DataError: no case was found, or there is no such checkpoint. Bad cases are told in the result.
        CorruptArtifactError: a checkpoint is damaged.
    """
    patients = find_patients(inputs)
    networks = open_networks(config, progress, [find_checkpoint(path) for path in checkpoints], tta=tta)
    told: list[dict[str, Any]] = []
    with artifact.project_lock(out):
        try:
            with progress.bar("predict", len(patients), "cases") as advance:
                for patient in patients:
                    told.append(_try_one(networks, patient, out, overwrite=overwrite))
                    advance()
        finally:
            _write_table(out)
    return {"out": str(out), "table": str(out / TABLE), "cut": plain(networks.cut), "cases": told}


def require_all(result: Mapping[str, Any]) -> None:
    """Raises for the cases that failed.

    Raises:
        DataError: with a line for each.
    """
    fix = "mend these, then run the command again; cases that are done are not done twice"
    require_none_failed(result["cases"], outcome="could not be predicted", fix=fix)


def open_networks(
    config: Config, progress: Progress, folders: Sequence[Path], *, tta: bool | None
) -> Networks:
    """What checkpoint folders say of their networks; weights are read when the first case needs them."""
    weights = tuple(read_description(folder).sha256 for folder in folders)
    point = find_point(folders[0], weights, tta=tta)
    as_tested = config.test.tta if point is None else point.tta
    flips = as_tested if tta is None else tta
    if point is None:
        progress.say(
            "notice",
            what="no threshold was chosen for these weights; probabilities are as the network gives them",
            fix="clotseg test",
        )

    @cache
    def predictor() -> Predictor:
        open_devices(config.runtime)
        return load_predictor(folders, tta=flips)

    return Networks(
        predictor=predictor,
        weights=weights,
        tta=flips,
        cut=cut_in_force(config.test, point),
        take_one_volume=all(_was_trained_on_one_volume(folder) for folder in folders),
    )


def _was_trained_on_one_volume(folder: Path) -> bool:
    """Whether CTA or NCCT was blackened now and then while the network was trained, as its run says."""
    file = run_of(folder).relevant / "clotseg.toml"
    if not file.is_file():
        return False
    trained = load_config(file)
    return trained.augment.drop_modality > 0 and trained.train.source == "sliced"


def _try_one(networks: Networks, patient: Patient, out: Path, *, overwrite: bool) -> dict[str, Any]:
    try:
        state, facts = predict_one(networks, patient, out / patient.name, overwrite=overwrite)
    except DataError as error:
        problem = "; ".join([str(error).splitlines()[0], *error.details])
        fix = f" ({error.fix})" if error.fix else ""
        return {
            "case": patient.name,
            "state": "failed",
            "clots": None,
            "doubt": None,
            "problem": problem + fix,
        }
    return {
        "case": patient.name,
        "state": state,
        "clots": len(facts["clots"]),
        "doubt": facts["doubt"],
        "problem": None,
    }


def predict_one(
    networks: Networks, patient: Patient, target: Path, *, overwrite: bool
) -> tuple[str, dict[str, Any]]:
    """Predicts a case into the folder `target`, where that is not done.

    Returns:
        `done` or `reused`, and what its manifest says of `clots`, `doubt` and `spread`.

    Raises:
        DataError: the case cannot be used, or `target` holds something else.
    """
    _require_volumes(networks, patient)
    config = {"cut": plain(networks.cut), "tta": networks.tta}
    inputs = {
        "weights": networks.weights,
        "spacing_mm": patient.spacing_mm,
        "cta": None if patient.cta is None else artifact.digest_file(patient.cta),
        "ncct": None if patient.ncct is None else artifact.digest_file(patient.ncct),
    }
    key = artifact.stage_key("predict", PREDICT_CODE_VERSION, config, inputs)
    if artifact.reusable(target, key):
        return "reused", artifact.require_manifest(target, fix="use --overwrite")
    _require_free(target, key, overwrite=overwrite)
    opened = _open(patient)
    if opened.origin is not None and opened.origin.cta_sha256 != inputs["cta"]:
        raise DataError("is not the volume that was imported", fix="run `clotseg import` again")
    found = segment(networks.predictor(), opened.volumes, networks.cut)
    facts = {
        "clots": [clot.as_row() for clot in _measure(opened, found)],
        "doubt": found.doubt.level,
        "spread": found.doubt.spread,
    }
    with artifact.publish(target) as folder:
        names = _write_volumes(folder, patient.name, opened, found)
        manifest = {
            "format": artifact.FORMAT,
            "stage": "predict",
            "code_version": PREDICT_CODE_VERSION,
            "key": key,
            "config": config,
            "inputs": inputs,
            "outputs": artifact.describe_outputs(folder, names),
            **facts,
        }
        artifact.write_manifest(folder, artifact.as_json(manifest))
    return "done", facts


def _require_volumes(networks: Networks, patient: Patient) -> None:
    missing = [kind for kind, path in (("CTA", patient.cta), ("NCCT", patient.ncct)) if path is None]
    if missing and not networks.take_one_volume:
        raise DataError(
            f"has no {missing[0]}",
            fix="give both volumes, or a network that was trained with `augment.drop_modality` above 0",
        )


def _require_free(target: Path, key: str, *, overwrite: bool) -> None:
    """Refuses to replace what is another's, and without `overwrite` what was predicted otherwise."""
    if not target.exists():
        return
    try:
        manifest = artifact.read_manifest(target)
    except CorruptArtifactError:
        manifest = {"stage": "predict", "key": None}
    if manifest is None or manifest.get("stage") != "predict":
        raise DataError(f"{target} is no prediction, and is left as it is", fix="use another --out")
    if manifest["key"] != key and not overwrite:
        raise DataError(
            f"{target} holds a prediction from other volumes, weights or settings",
            fix="use --overwrite to replace it, or another --out",
        )


def _open(patient: Patient) -> OpenedPatient:
    """The volumes of a patient, checked; NIfTI in the network's axes."""
    kinds = {path.name.endswith(".npy") for path in patient.files}
    if len(kinds) > 1:
        raise DataError("CTA and NCCT must both be NIfTI or both .npy")
    opened = _open_nifti(patient) if patient.is_nifti else _open_npy(patient)
    findings = []
    volumes = (opened.volumes.cta, opened.volumes.ncct)
    for path, volume in zip((patient.cta, patient.ncct), volumes, strict=True):
        if path is not None and volume is not None:
            fault = array_fault(path, volume)
            findings += [fault] if fault else hu_faults(path, volume)
    shapes = {volume.shape for volume in volumes if volume is not None}
    if len(shapes) > 1:
        findings.append(f"the volumes differ in shape: {', '.join(map(str, sorted(shapes)))}")
    if findings:
        raise DataError("cannot be used", details=findings)
    return opened


def _open_npy(patient: Patient) -> OpenedPatient:
    try:
        origin = None if patient.cta is None else read_origin(patient.cta)
    except CorruptArtifactError as error:  # Of this case alone; the others go on.
        raise DataError(error.what, where=error.where, fix=error.fix) from error
    return OpenedPatient(
        volumes=Volumes(
            name=patient.name,
            cta=None if patient.cta is None else open_volume(patient.cta),
            ncct=None if patient.ncct is None else open_volume(patient.ncct),
        ),
        spacing_mm=patient.spacing_mm,
        affine=None if origin is None else origin.case.affine,
        stored=None,
        origin=origin,
    )


def _open_nifti(patient: Patient) -> OpenedPatient:
    cta = None if patient.cta is None else read_nifti(patient.cta)
    ncct = None if patient.ncct is None else read_nifti(patient.ncct)
    if cta is not None and ncct is not None:
        require_same_grid(cta, ncct)
    stored = next(volume for volume in (cta, ncct) if volume is not None)
    return OpenedPatient(
        volumes=Volumes(
            name=patient.name, cta=None if cta is None else cta.hu, ncct=None if ncct is None else ncct.hu
        ),
        spacing_mm=stored.spacing_mm,
        affine=stored.affine,
        stored=stored,
    )


def _measure(opened: OpenedPatient, found: Segmentation) -> list[ClotMeasurement]:
    return measure_clots(
        found.predicted,
        cta_hu=opened.volumes.cta,
        ncct_hu=opened.volumes.ncct,
        spacing_mm=opened.spacing_mm,
        affine=opened.affine,
    )


def _write_volumes(folder: Path, name: str, opened: OpenedPatient, found: Segmentation) -> list[str]:
    """Mask and probability in the format of the volumes; gives the names of the files."""
    if opened.stored is None:
        np.save(folder / f"{name}_pred.npy", found.predicted)
        np.save(folder / f"{name}_prob.npy", found.probability)
        names = [f"{name}_pred.npy", f"{name}_prob.npy"]
        if opened.origin is not None:
            names += _write_on_scan(folder, name, opened.origin, found)
        return names
    write_nifti(folder / f"{name}_pred.nii.gz", found.predicted, opened.stored)
    write_nifti(folder / f"{name}_prob.nii.gz", found.probability.astype(np.float32), opened.stored)
    return [f"{name}_pred.nii.gz", f"{name}_prob.nii.gz"]


def _write_on_scan(folder: Path, name: str, origin: Origin, found: Segmentation) -> list[str]:
    """Mask and probability on the grid of the CTA that the case was imported from; the names of the files."""
    import nibabel

    back = {
        f"{name}_pred_on_cta.nii.gz": origin.mask_back(found.predicted),
        f"{name}_prob_on_cta.nii.gz": origin.probability_back(found.probability),
    }
    for file, values in back.items():
        nibabel.Nifti1Image(values, origin.cta.affine).to_filename(folder / file)
    return list(back)


def _write_table(out: Path) -> None:
    """A line for each clot of each case in `out`, and one for each case without; in one step."""
    temporary = out / f".{TABLE}.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for folder in sorted(path.parent for path in out.glob(f"[!.]*/{artifact.MANIFEST}")):
            try:
                facts = artifact.read_manifest(folder)
            except CorruptArtifactError:
                continue  # It is told where the case itself is asked for.
            if facts is None or facts.get("stage") != "predict":
                continue
            case = {
                "case": folder.name,
                "clots": len(facts["clots"]),
                "doubt": facts["doubt"],
                "spread": facts["spread"],
            }
            writer.writerows({**case, **clot} for clot in facts["clots"] or [{}])
    artifact.replace_file(temporary, out / TABLE)
