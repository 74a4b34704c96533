"""Data flows one way: a module imports only from those above it, and heavy libraries stay in their place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clotseg

ROOT = Path(clotseg.__file__).parent
HEAVY = (
    *("tensorflow", "keras", "nvidia", "matplotlib", "albumentations", "scipy", "skimage", "nibabel"),
    *("highdicom", "numba", "pydicom", "SimpleITK"),
)

SHARED = (
    *("errors", "recipes", "config", "project", "artifact", "quiet", "console", "telemetry", "dashboard"),
    "tasks",
)
"""What every package may use, each only from those before it."""

STORY = ("prep", "scans", "dali", "train", "evaluate")
"""The packages in the order data passes through them."""

MAY_IMPORT = {
    **{name: SHARED[:place] for place, name in enumerate(SHARED)},
    **{name: (*SHARED, *STORY[:place]) for place, name in enumerate(STORY)},
    "contact_sheet": (*SHARED, "prep", "dali"),
    "importer": (*SHARED, "prep", "scans"),
    "phantom": SHARED,
    "bench": (*SHARED, "prep", "dali", "train", "phantom"),
    "doctor": SHARED,
    "__main__": ("cli",),
    "results": (*SHARED, "doctor"),
    "demo": (*SHARED, *STORY, "phantom"),
    "cli": (*SHARED, *STORY, "importer", "phantom", "bench", "doctor", "results", "demo", "contact_sheet"),
}

HEAVY_AT_MODULE_LEVEL = {
    "dali/augment/clahe.py": {"nvidia"},
    "dali/augment/compiled.py": {"numba", "nvidia"},
    "dali/augment/noise.py": {"nvidia"},
    "dali/augment/on_cpu.py": {"nvidia"},
    "dali/augment/rerun.py": {"nvidia"},
    "dali/augment/sampler.py": {"nvidia"},
    "dali/augment/transforms.py": {"nvidia"},
    "dali/padding.py": {"numba", "nvidia"},
    "dali/pipeline.py": {"nvidia"},
    "evaluate/agreement.py": {"scipy"},
    "evaluate/charts.py": {"matplotlib"},
    "evaluate/clot.py": {"scipy"},
    "evaluate/comparison.py": {"scipy"},
    "evaluate/figures.py": {"matplotlib"},
    "evaluate/metrics.py": {"scipy"},
    "evaluate/midplane.py": {"scipy"},
    "evaluate/surface.py": {"scipy"},
    "importer/quality.py": {"scipy"},
    "importer/registration.py": {"SimpleITK"},
    "phantom/geometry.py": {"scipy"},
}
"""Modules that are all about one library; what uses them imports them late."""

MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def part_of(module: Path) -> str:
    """The package or the single module of clotseg that a file belongs to."""
    return module.relative_to(ROOT).with_suffix("").parts[0]


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of the modules that the import statements among `nodes` name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def parts_used(module: Path) -> set[str]:
    """The other parts of clotseg that a file imports from, within functions too."""
    names = imported(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    parts = {name.split(".")[1] for name in names if name.startswith("clotseg.")}
    return {part for part in parts if part in MAY_IMPORT or (ROOT / part).exists()} - {part_of(module)}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_those_above_it(module: Path) -> None:
    assert part_of(module) in MAY_IMPORT, "a new module must be given its place"
    assert parts_used(module) <= set(MAY_IMPORT[part_of(module)])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_are_imported_late(module: Path) -> None:
    names = imported(outside_functions(ast.parse(module.read_text(encoding="utf-8"))))
    heavy = {name.split(".")[0] for name in names} & set(HEAVY)
    assert heavy <= HEAVY_AT_MODULE_LEVEL.get(module.relative_to(ROOT).as_posix(), set())


def test_the_imports_are_seen() -> None:
    """Keeps the two tests above from passing because they look at nothing."""
    assert parts_used(ROOT / "cli" / "training.py") >= {"prep", "train", "results"}
    assert parts_used(ROOT / "dali" / "feed.py") >= {"config", "prep"}
    assert {part_of(module) for module in MODULES} == set(MAY_IMPORT)


def test_the_command_line_loads_without_any_heavy_library() -> None:
    program = "import sys, clotseg.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "typer" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy"})
