"""How near does registration come to a known motion, how long does it take, and does it fail?

    python benchmarks/registration.py ATLAS.nii.gz [--seeds 30] [--first 0] [--skull] [--atlas]

Gives a real average brain CT simulated arteries, noise and grids of 0.9×0.9×1 mm (CTA) and 1×1×2.5 mm (NCCT),
moves it by up to 15° about a random axis and up to 15 mm, and registers; with `--skull` in a drawn skull and
scalp, with `--atlas` the atlas itself to the CTA in a drawn skull, by an affine map. The error is the mean
displacement over the brain. Failures are errors above half a voxel of the 1 mm atlas; `found` says whether
quality control fails the case.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from clotseg.importer.quality import check_registration, verdict_of
from clotseg.importer.registration import register_atlas, register_rigid
from clotseg.scans.scan import Scan
from tests.importer.head_scans import displacement_mm, head_pair

ALLOWED_MM = 0.5


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("brain", type=Path, help="brain CT, NIfTI, skull-stripped, HU")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--skull", action="store_true", help="in a drawn skull and scalp")
    parser.add_argument("--atlas", action="store_true", help="register the atlas, by an affine map")
    options = parser.parse_args()
    errors, seconds, missed = [], [], 0
    for seed in range(options.first, options.first + options.seeds):
        pair = head_pair(options.brain, seed, skull=options.skull or options.atlas)
        started = time.perf_counter()
        if options.atlas:
            found = register_atlas(pair.cta, read(options.brain), seed=seed)
            before, error = (
                displacement_mm(matrix, np.eye(4), pair.brain_mm)
                for matrix in (np.eye(4), found.fixed_to_moving)
            )
        else:
            found = register_rigid(pair.cta, pair.ncct, seed=seed)
            before, error = pair.error_mm(np.eye(4)), pair.error_mm(found.fixed_to_moving)
        seconds.append(time.perf_counter() - started)
        errors.append(error)
        verdict = verdict_of(check_registration(found))
        missed += error > ALLOWED_MM and verdict != "fail"
        print(
            f"seed {seed:3}: {before:6.2f} mm before, {error:6.3f} mm after; similarity "
            f"{found.similarity_before:.3f} → {found.similarity_after:.3f}, heads {found.heads_overlap:.3f}, "
            f"{verdict}; {seconds[-1]:.1f} s",
            flush=True,
        )
    failures = sum(error > ALLOWED_MM for error in errors)
    print(
        f"median {statistics.median(errors):.3f} mm, worst {max(errors):.3f} mm; {failures} of {len(errors)} "
        f"above {ALLOWED_MM} mm, {missed} of them not failed by quality control; "
        f"median {statistics.median(seconds):.1f} s"
    )


def read(path: Path) -> Scan:
    """A NIfTI volume as it is stored."""
    image = nibabel.load(path)
    return Scan(values=np.asarray(image.dataobj), affine=np.asarray(image.affine, np.float64))


if __name__ == "__main__":
    main()
