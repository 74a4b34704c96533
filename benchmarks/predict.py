"""How much of its time does `clotseg predict` spend in the network, and how much memory does it take?

    python benchmarks/predict.py [--repeats 5] [--cases 2] [--size 256] [--slices 64] [--filters 32]
    python benchmarks/predict.py --project DIR [--repeats 5]

Makes a checkpoint that was never trained and volumes of noise with a ball in them, or takes the newest run of
a project and its test cohort. Then in turns, so that both meet the same machine: predicts each case from its
files to its published folder (digests, checks, windows, network, mask, measurements, files flushed to disk),
and runs the network alone on the very same slices, which lie ready in memory. Given are whole volumes a
minute, median and range over the repeats, and their ratio. The time to load TensorFlow and the weights is in
neither. Last, each in a process of its own, the most memory that volumes of a few and of many slices take.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clotseg.config import Config, NetworkConfig, RuntimeConfig, SliceConfig, TestConfig
from clotseg.console import PlainProgress
from clotseg.evaluate.infer import SLICES_AT_ONCE, Volumes, centre_pad
from clotseg.evaluate.patients import Patient, find_patients
from clotseg.evaluate.predict import Networks, open_networks, predict_one
from clotseg.evaluate.subject import newest_best
from clotseg.prep.cases import open_volume
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.slices import window_volumes
from clotseg.project import Project
from clotseg.train.checkpoint import Description, load_checkpoint, save_checkpoint
from clotseg.train.devices import open_devices
from clotseg.train.unet import build_unet

RUNTIME = RuntimeConfig(gpus="auto")
CLOT_VOXELS = 300


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of a slice")
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument(
        "--long", type=int, default=512, help="slices of the volume that memory is measured on"
    )
    parser.add_argument("--project", type=Path, help="take its newest run and test cohort instead")
    parser.add_argument("--peak", nargs=2, type=Path, metavar=("CKPT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_mib(*options.peak)))
        return
    open_devices(RUNTIME)
    with tempfile.TemporaryDirectory(prefix="clotseg-bench-") as name:
        folder = Path(name)
        if options.project:
            project = Project(options.project.resolve())
            checkpoint, patients = newest_best(project), test_cohort(project)
        else:
            checkpoint = make_checkpoint(folder / "run", options.size, options.filters)
            shape = (options.size, options.size, options.slices)
            make_volumes(folder / "volumes", shape, options.cases)
            patients = find_patients([folder / "volumes"])
        compare(folder, checkpoint, patients, options.repeats)
        if not options.project:
            memory(folder, checkpoint, options.size, (options.slices, options.long))


def make_checkpoint(run: Path, size: int, filters: int) -> Path:
    """Weights that were never taught, in the folder that is returned."""
    network = NetworkConfig(filters=filters)
    description = Description(
        network=network, slicing=SliceConfig(), size=size, channels=2, epoch=1, val_dice=0.0
    )
    save_checkpoint(run / "Best_Model", build_unet(network, size=size, channels=2), description)
    return run / "Best_Model"


def make_volumes(folder: Path, shape: tuple[int, int, int], count: int) -> None:
    """Noise in int16 HU with a bright ball, which a network that was never taught answers to, too."""
    folder.mkdir()
    random = np.random.default_rng(0)
    places = np.ogrid[tuple(slice(side) for side in shape)]
    distance = sum((place - side / 2) ** 2 for place, side in zip(places, shape, strict=True))
    ball = distance < (min(shape) / 12) ** 2
    for number in range(count):
        for kind, low, high in (("CTA", 0, 120), ("NCCT_Reg", 20, 50)):
            hu = random.integers(low, high, shape, np.int16)
            hu[ball] = 400
            np.save(folder / f"case_{number:02d}_{kind}_Binary.npy", hu)


def test_cohort(project: Project) -> list[Patient]:
    """The test cases of a project, as patients."""
    return [
        Patient(
            name=entry.case.name,
            cta=entry.case.cta,
            ncct=entry.case.ncct,
            spacing_mm=entry.case.spacing_mm,
        )
        for entry in read_cohorts(project).of("Testing")
    ]


def mapped(patient: Patient) -> Volumes:
    """A patient's volumes, mapped."""
    cta, ncct = (open_volume(path) for path in patient.files)
    return Volumes(name=patient.name, cta=cta, ncct=ncct)


def batches_of(patient: Patient, slicing: SliceConfig, size: int) -> list[NDArray[np.uint8]]:
    """The padded slices of a patient, ready for the network."""
    volumes = mapped(patient)
    padded = centre_pad(window_volumes(volumes.cta, volumes.ncct, slicing), size)
    return [padded[at : at + SLICES_AT_ONCE] for at in range(0, len(padded), SLICES_AT_ONCE)]


def networks_for(checkpoint: Path, patient: Patient) -> Networks:
    """The networks; where no threshold was chosen, cut so that a few hundred voxels are clot."""
    networks = open_networks(Config(runtime=RUNTIME), PlainProgress(), [checkpoint], tta=False)
    if (checkpoint / "operating_point.json").exists():
        return networks
    highest = np.sort(networks.predictor().probability(mapped(patient)).ravel())[-CLOT_VOXELS]
    config = Config(runtime=RUNTIME, test=TestConfig(threshold=float(np.float16(highest))))
    return open_networks(config, PlainProgress(), [checkpoint], tta=False)


def compare(folder: Path, checkpoint: Path, patients: list[Patient], repeats: int) -> None:
    """Alternates the whole way and the network alone, after a round that is not counted."""
    import tensorflow as tf

    model, description = load_checkpoint(checkpoint)
    call = tf.function(lambda slices: model(tf.cast(slices, tf.float32) * (1 / 255), training=False))
    batches = [
        batch for patient in patients for batch in batches_of(patient, description.slicing, description.size)
    ]
    networks = networks_for(checkpoint, patients[0])
    took: dict[str, list[float]] = {"end to end": [], "network alone": []}
    clots = 0
    for _ in range(repeats + 1):
        out = folder / "out"
        started = time.perf_counter()
        clots = sum(
            len(predict_one(networks, patient, out / patient.name, overwrite=False)[1]["clots"])
            for patient in patients
        )
        took["end to end"].append(time.perf_counter() - started)
        shutil.rmtree(out)
        started = time.perf_counter()
        for batch in batches:
            call(batch).numpy()
        took["network alone"].append(time.perf_counter() - started)
    slices = sum(len(batch) for batch in batches)
    print(
        f"{len(patients)} volumes, {slices} slices of {batches[0].shape[1]}² pixels; {clots} clots measured"
    )
    medians = report(took, len(patients))
    print(f"end to end is {medians['network alone'] / medians['end to end']:.2f} of the network alone")


def report(took: dict[str, list[float]], volumes: int) -> dict[str, float]:
    """Prints volumes a minute, and gives the median seconds, without the first round of each."""
    medians = {}
    for name, seconds in took.items():
        counted = seconds[1:]
        medians[name] = statistics.median(counted)
        rates = [60 * volumes / second for second in (medians[name], max(counted), min(counted))]
        print(f"  {name:14} {rates[0]:7.2f} volumes a minute ({rates[1]:.2f} to {rates[2]:.2f})")
    return medians


def memory(folder: Path, checkpoint: Path, size: int, lengths: tuple[int, ...]) -> None:
    """Prints the most resident memory that a process takes for one volume of each length."""
    for slices in lengths:
        volumes = folder / f"memory-{slices}"
        make_volumes(volumes, (size, size, slices), 1)
        arguments = [sys.executable, __file__, "--peak", str(checkpoint), str(volumes)]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        before, peak = json.loads(done.stdout.splitlines()[-1])
        print(
            f"one volume of {size}×{size}×{slices}: peak {peak:.0f} MiB resident, "
            f"{peak - before:.0f} MiB more than the network on one batch"
        )


def peak_mib(checkpoint: Path, folder: Path) -> tuple[float, float]:
    """MiB resident at most after the network saw one batch, and after one volume was predicted."""
    open_devices(RUNTIME)
    (patient,) = find_patients([folder])
    config = Config(runtime=RUNTIME, test=TestConfig(threshold=0.999))
    networks = open_networks(config, PlainProgress(), [checkpoint], tta=False)
    size = mapped(patient).shape[0]
    black = np.zeros((size, size, SLICES_AT_ONCE), np.int16)
    networks.predictor().probability(Volumes(name="black", cta=black, ncct=black))
    before = most_resident_mib()
    predict_one(networks, patient, folder / "out", overwrite=False)
    return before, most_resident_mib()


def most_resident_mib() -> float:
    """The most memory this process had so far, mapped files that were read included."""
    status = Path("/proc/self/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return float(kib) / 1024


if __name__ == "__main__":
    main()
