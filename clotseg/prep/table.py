"""`cases.csv`: a table of patients, sites and voxel spacings in; a row for each case, and every fault, out.

A column that is not known is a fault, never ignored: cases whose `Patient` went unread would be split as if
each were a patient of its own, and one patient could land in two cohorts.
"""

import csv
import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

Spacing = tuple[float, float, float]

SPACING_COLUMNS = ("spacing_row_mm", "spacing_col_mm", "spacing_slice_mm")
COLUMNS = ("case", "patient", "site", *SPACING_COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What the table says of a case; empty where it says nothing.

    Attributes:
        spacing_mm: voxel size along (row, column, slice) in mm, None when not known.
    """

    patient: str = ""
    site: str = ""
    spacing_mm: Spacing | None = None


def read_table(path: Path, names: Collection[str]) -> tuple[dict[str, Row], list[str]]:
    """Reads the table, where there is one.

    Args:
        path: the CSV file; it may be absent.
        names: the cases that there are; each needs a line, and lines of others are left alone.

    Returns:
        A row for each case that has one, and one text for each fault.
    """
    if not path.exists():
        return {}, []
    try:
        columns, lines = read_lines(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [f"{path.name}: cannot be read as CSV ({error})"]
    faults = _column_faults(columns)
    table: dict[str, Row] = {}
    if "case" in columns:
        for number, cells in lines:
            _take(number, cells, table, faults)
        if absent := sorted(set(names) - set(table)):
            faults.append(f"no line for {', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}")
        faults += [f"patients {pair} differ by letter case only" for pair in _alike(table)]
    return table, [f"{path.name}: {fault}" for fault in faults]


def read_lines(path: Path) -> tuple[list[str], list[tuple[int, dict[str | None, str | None]]]]:
    """The columns of a CSV file, and its lines by number: the cells by column.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: it cannot be read as CSV.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        columns = list(reader.fieldnames or ())
        return columns, [(reader.line_num, dict(cells)) for cells in reader]


def differing_by_letter_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that are the same but for upper and lower case, sorted."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _alike(table: dict[str, Row]) -> list[str]:
    return [" and ".join(group) for group in differing_by_letter_case(row.patient for row in table.values())]


def _column_faults(columns: list[str]) -> list[str]:
    faults = []
    for column in columns:
        if column not in COLUMNS:
            nearest = difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.6)
            hint = f"did you mean `{nearest[0]}`?" if nearest else "leave it out"
            faults.append(
                f"unknown column `{column}`; {hint} Columns, with commas between: {','.join(COLUMNS)}"
            )
    faults += [f"column `{name}` is there twice" for name in COLUMNS if columns.count(name) > 1]
    if "case" not in columns:
        faults.append(f"has no column `case`; its columns, with commas between: {','.join(COLUMNS)}")
    return faults


def _take(number: int, cells: dict[str | None, str | None], table: dict[str, Row], faults: list[str]) -> None:
    """Adds one line to the table, and what is wrong with it to the faults."""
    if None in cells:
        faults.append(f"line {number}: more cells than columns")
    text = {name: (cells.get(name) or "").strip() for name in COLUMNS}
    name = text["case"]
    if not name:
        faults.append(f"line {number}: no case named")
        return
    if name in table:
        faults.append(f"line {number}: case {name} is listed twice")
    spacing = read_spacing([text[column] for column in SPACING_COLUMNS], number, faults)
    table[name] = Row(patient=text["patient"], site=text["site"], spacing_mm=spacing)


def read_spacing(texts: list[str], number: int, faults: list[str]) -> Spacing | None:
    """Three cells of line `number` as a spacing in mm, None where all are empty; adds to `faults`."""
    if not any(texts):
        return None
    try:
        row_mm, column_mm, slice_mm = (float(text) for text in texts)
    except ValueError:
        faults.append(f"line {number}: spacing {texts} is not three numbers")
        return None
    if not all(isfinite(value) and value > 0 for value in (row_mm, column_mm, slice_mm)):
        faults.append(f"line {number}: spacing {texts} must be above 0 mm")
        return None
    return row_mm, column_mm, slice_mm
