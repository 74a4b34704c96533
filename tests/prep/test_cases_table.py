"""`cases.csv`: what it says of a case, and what is refused because a patient could slip into two cohorts."""

import pytest

from clotseg.errors import DataError
from tests.conftest import write_cases_csv
from tests.prep.conftest import checked_cases, found_cases

COLUMNS = "case,patient,site,spacing_row_mm,spacing_col_mm,spacing_slice_mm"


def table(project, *, leave_out=(), **first_row):
    """Writes a `cases.csv` with a line a case; `first_row` overrides the line of case_00."""
    rows = [
        {
            "case": f"case_{number:02d}",
            "patient": f"p{number // 2}",
            "site": "north",
            "spacing_row_mm": 0.5,
            "spacing_col_mm": 0.4,
            "spacing_slice_mm": 0.6,
        }
        for number in range(10)
    ]
    rows[0].update(first_row)
    write_cases_csv(project, [row for row in rows if row["case"] not in leave_out])


def table_refused(project):
    """The error that this `cases.csv` raises."""
    with pytest.raises(DataError, match=r"cases\.csv") as caught:
        checked_cases(project)
    assert caught.value.exit_code == 3
    return caught.value


def test_the_table_gives_patient_site_and_spacing(cohort):
    table(cohort)
    case = found_cases(cohort)[1]
    assert (case.patient, case.site, case.spacing_mm) == ("p0", "north", (0.5, 0.4, 0.6))


def test_a_case_without_patient_is_its_own_and_without_spacing_has_none(cohort):
    table(cohort, patient="", spacing_row_mm="", spacing_col_mm="", spacing_slice_mm="")
    case = found_cases(cohort)[0]
    assert (case.patient, case.spacing_mm) == ("case_00", None)


def test_stray_spaces_do_not_make_two_patients_of_one(cohort):
    lines = [f"case_{number:02d}, p{number // 2}{' ' * (number % 2)}, north " for number in range(10)]
    cohort.cases_csv.write_text("\n".join(["case, patient, site", *lines]) + "\n")
    cases = found_cases(cohort)
    assert [case.patient for case in cases] == [f"p{number // 2}" for number in range(10)]
    assert {case.site for case in cases} == {"north"}


def test_a_table_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(cohort):
    table(cohort)
    cohort.cases_csv.write_bytes(b"\xef\xbb\xbf" + cohort.cases_csv.read_bytes())
    assert found_cases(cohort)[1].patient == "p0"


def test_lines_for_cases_that_are_not_here_are_no_harm(cohort):
    table(cohort)
    with cohort.cases_csv.open("a") as stream:
        stream.write("case_77,p9,north,1,1,1\n")
    assert len(found_cases(cohort)) == 10


@pytest.mark.parametrize("text", [b"", b"name,patient\ncase_00,p0\n", b"case;patient\ncase_00;p0\n"])
def test_a_table_without_a_case_column_is_told_its_columns(cohort, text):
    cohort.cases_csv.write_bytes(text)
    assert COLUMNS in str(table_refused(cohort))


def test_a_table_that_is_not_text_is_refused(cohort):
    cohort.cases_csv.write_bytes(b"case\n\xff\xfe\n")
    assert "CSV" in str(table_refused(cohort))


@pytest.mark.parametrize(
    ("spacing", "finding"),
    [
        ("half", "not three numbers"),
        ("", "not three numbers"),
        ("0", "above 0 mm"),
        ("-0.5", "above 0 mm"),
        ("nan", "above 0 mm"),
        ("inf", "above 0 mm"),
    ],
)
def test_a_spacing_that_is_none_is_refused_with_its_line(cohort, spacing, finding):
    table(cohort, spacing_col_mm=spacing)
    (detail,) = table_refused(cohort).details
    assert detail.startswith("cases.csv: line 2:")
    assert finding in detail


def test_all_findings_in_the_table_are_listed_at_once(cohort):
    table(cohort, leave_out=("case_05", "case_08"), spacing_row_mm="?")
    with cohort.cases_csv.open("a") as stream:
        stream.write("case_03,p1,north,1,1,1\n")
    assert table_refused(cohort).details == (
        "cases.csv: line 2: spacing ['?', '0.4', '0.6'] is not three numbers",
        "cases.csv: line 10: case case_03 is listed twice",
        "cases.csv: no line for case_05, case_08",
    )


@pytest.mark.parametrize(
    ("column", "meant"),
    [("Patient", "patient"), ("patient_id", "patient"), ("patients", "patient"), ("Site", "site")],
)
def test_an_unknown_column_is_refused_with_the_nearest_known_one(cohort, column, meant):
    write_cases_csv(cohort, [{"case": f"case_{number:02d}", column: "x"} for number in range(10)])
    (detail,) = table_refused(cohort).details
    assert f"unknown column `{column}`; did you mean `{meant}`?" in detail


def test_a_column_that_is_like_no_other_is_refused_with_all_that_are_known(cohort):
    write_cases_csv(cohort, [{"case": f"case_{number:02d}", "age": 70} for number in range(10)])
    (detail,) = table_refused(cohort).details
    assert "unknown column `age`; leave it out" in detail
    assert COLUMNS in detail


def test_a_column_that_is_there_twice_is_refused(cohort):
    lines = [f"case_{number:02d},p{number},p0" for number in range(10)]
    cohort.cases_csv.write_text("\n".join(["case,patient,patient", *lines]))
    assert "column `patient` is there twice" in str(table_refused(cohort))


def test_patients_that_differ_by_letter_case_only_are_refused(cohort):
    table(cohort, patient="P0")
    assert table_refused(cohort).details == ("cases.csv: patients P0 and p0 differ by letter case only",)


def test_lines_that_do_not_fit_the_columns_are_refused_by_number(cohort):
    table(cohort)
    with cohort.cases_csv.open("a") as stream:
        stream.write("case_03x,p1,north,1,1,1,surplus\n,p9\n")
    assert table_refused(cohort).details == (
        "cases.csv: line 12: more cells than columns",
        "cases.csv: line 13: no case named",
    )
