"""Cohorts by patient: whole, disjoint, of the promised sizes, decided by seed and patients alone."""

import json
from collections import Counter
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clotseg.config import SplitConfig
from clotseg.errors import DataError
from clotseg.prep.split import read_split_file, split_cases

TEN = {f"case_{number}": f"case_{number}" for number in range(10)}


@st.composite
def cohorts_to_split(draw):
    """Cases with their patients, and percentages that leave nobody out."""
    patients = draw(st.lists(st.text(min_size=1, max_size=5), min_size=3, max_size=40, unique=True))
    cases = {
        f"{patient}/{number}": patient for patient in patients for number in range(draw(st.integers(1, 3)))
    }
    hundredths = st.integers(1, 98)
    train, validate = draw(hundredths), draw(hundredths)
    assume(train + validate < 100)
    shares = Decimal(train) / 100, Decimal(validate) / 100
    sizes = expected_sizes(len(patients), *shares)
    assume(all(sizes))
    config = SplitConfig(
        train_perc=float(shares[0]), val_perc=float(shares[1]), seed=draw(st.integers(0, 2**31 - 1))
    )
    return cases, config, sizes


def expected_sizes(patients, train, validate):
    """ceil, floor and the rest in decimal arithmetic."""
    training = int((train * patients).to_integral_value(ROUND_CEILING))
    validation = int((validate * patients).to_integral_value(ROUND_FLOOR))
    return training, validation, patients - training - validation


@given(cohorts_to_split())
def test_every_case_is_in_one_cohort_and_a_patient_never_in_two(drawn):
    patient_of, config, _ = drawn
    members = split_cases(patient_of, config)
    assert list(members) == ["Training", "Validation", "Testing"]
    everyone = [case for cases in members.values() for case in cases]
    assert sorted(everyone) == sorted(patient_of)
    cohorts_of = {patient: set() for patient in patient_of.values()}
    for cohort, cases in members.items():
        for case in cases:
            cohorts_of[patient_of[case]].add(cohort)
    assert all(len(cohorts) == 1 for cohorts in cohorts_of.values())


@given(cohorts_to_split())
def test_patients_are_shared_out_as_ceil_floor_and_the_rest(drawn):
    patient_of, config, sizes = drawn
    members = split_cases(patient_of, config)
    assert tuple(len({patient_of[case] for case in cases}) for cases in members.values()) == sizes


@given(cohorts_to_split(), st.randoms(use_true_random=False))
def test_the_order_in_which_cases_are_found_does_not_matter(drawn, random):
    patient_of, config, _ = drawn
    items = list(patient_of.items())
    random.shuffle(items)
    assert split_cases(dict(items), config) == split_cases(patient_of, config)


@pytest.mark.parametrize(
    ("patients", "train", "validate", "sizes"),
    [
        (10, 0.6, 0.2, (6, 2, 2)),
        (11, 0.6, 0.2, (7, 2, 2)),
        (14, 0.6, 0.2, (9, 2, 3)),
        (30, 0.1, 0.1, (3, 3, 24)),
        (10, 0.3, 0.1, (3, 1, 6)),
        (50, 0.14, 0.58, (7, 29, 14)),
        (5, 0.2, 0.6, (1, 3, 1)),
    ],
)
def test_percentages_are_taken_as_the_decimals_they_were_written_as(patients, train, validate, sizes):
    names = {f"p{number}": f"p{number}" for number in range(patients)}
    members = split_cases(names, SplitConfig(train_perc=train, val_perc=validate))
    assert tuple(len(cases) for cases in members.values()) == sizes


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    splits = [split_cases(TEN, SplitConfig(seed=seed)) for seed in (1, 2, 3, 1)]
    chosen = [frozenset(members["Training"]) for members in splits]
    assert len(set(chosen)) == 3
    assert splits[0] == splits[3]


def test_every_patient_has_the_same_chance_of_being_tested():
    tested = dict.fromkeys(TEN, 0)
    for seed in range(1000):
        for case in split_cases(TEN, SplitConfig(seed=seed))["Testing"]:
            tested[case] += 1
    # Binomial(1000, 0.2) has a standard deviation of 12.6: five of them either way.
    assert all(137 <= count <= 263 for count in tested.values()), tested


def test_cases_of_one_patient_stay_together_whatever_they_are_called():
    patient_of = TEN | {"zz": "case_0", "aa": "case_0"}
    for seed in range(20):
        members = split_cases(patient_of, SplitConfig(seed=seed))
        (home,) = [cases for cases in members.values() if "case_0" in cases]
        assert {"zz", "aa"} <= set(home)


@pytest.mark.parametrize(
    ("patients", "config", "empty"),
    [
        (1, SplitConfig(), "Validation and Testing"),
        (4, SplitConfig(), "Validation"),
        (5, SplitConfig(train_perc=0.7, val_perc=0.2), "Testing"),
    ],
)
def test_a_split_that_leaves_a_cohort_empty_is_refused_and_says_which(patients, config, empty):
    if (patients, empty) == (5, "Testing"):
        assert expected_sizes(5, Decimal("0.7"), Decimal("0.2")) == (4, 1, 0)
    with pytest.raises(DataError, match=f"leave nothing for {empty};"):
        split_cases({f"p{number}": f"p{number}" for number in range(patients)}, config)


def test_many_cases_of_few_patients_do_not_make_up_for_patients():
    with pytest.raises(DataError, match="2 patient"):
        split_cases({f"case_{number}": f"p{number % 2}" for number in range(30)}, SplitConfig())


@st.composite
def strata_to_split(draw):
    """Cases with patient and stratum, one patient in one stratum."""
    patient_of, config, sizes = draw(cohorts_to_split())
    stratum_of_patient = {patient: draw(st.sampled_from("abc")) for patient in set(patient_of.values())}
    return patient_of, config, sizes, {case: stratum_of_patient[p] for case, p in patient_of.items()}


def patients_by_cohort(members, patient_of):
    """The patients of each cohort."""
    return {cohort: {patient_of[case] for case in cases} for cohort, cases in members.items()}


@given(strata_to_split(), st.randoms(use_true_random=False))
def test_strata_share_every_cohort_and_change_no_size(drawn, random):
    patient_of, config, sizes, stratum_of = drawn
    members = split_cases(patient_of, config, stratum_of)
    assert sorted(case for cases in members.values() for case in cases) == sorted(patient_of)
    chosen = patients_by_cohort(members, patient_of)
    assert tuple(map(len, chosen.values())) == sizes
    assert sum(map(len, chosen.values())) == len(set(patient_of.values()))
    stratum = {patient_of[case]: stratum_of[case] for case in patient_of}
    everyone, training = Counter(stratum.values()), Counter(stratum[p] for p in chosen["Training"])
    for name, count in everyone.items():
        assert abs(training[name] - count * sizes[0] / len(stratum)) < 1
        validating = sum(stratum[p] == name for p in chosen["Validation"])
        left = count - training[name]
        assert abs(validating - left * sizes[1] / (len(stratum) - sizes[0])) < 1
    items = list(patient_of.items())
    random.shuffle(items)
    assert split_cases(dict(items), config, stratum_of) == members


def test_one_stratum_splits_as_none_does():
    assert split_cases(TEN, SplitConfig(), dict.fromkeys(TEN, "all")) == split_cases(TEN, SplitConfig())


@given(
    st.integers(6, 40),
    st.integers(2, 6),
    st.integers(0, 99),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.booleans(),
)
def test_over_the_folds_every_patient_is_tested_exactly_once(patients, folds, seed, val_perc, stratified):
    patient_of = {f"c{n}": f"p{n // 2}" for n in range(2 * patients)}
    stratum_of = {case: "rare" if int(case[1:]) < 4 else "common" for case in patient_of}
    validating = int((Decimal(str(val_perc)) * patients).to_integral_value(ROUND_FLOOR))
    assume(validating and patients - -(-patients // folds) - validating > 0)
    tested = Counter()
    for fold in range(1, folds + 1):
        config = SplitConfig(folds=folds, fold=fold, seed=seed, val_perc=val_perc)
        members = split_cases(patient_of, config, stratum_of if stratified else None)
        assert sorted(case for cases in members.values() for case in cases) == sorted(patient_of)
        chosen = patients_by_cohort(members, patient_of)
        assert sum(map(len, chosen.values())) == patients
        assert len(chosen["Validation"]) == validating
        assert patients // folds <= len(chosen["Testing"]) <= -(-patients // folds)
        if stratified:
            assert len(chosen["Testing"] & {"p0", "p1"}) <= 1
        tested.update(chosen["Testing"])
    assert tested == Counter(set(patient_of.values()))


def test_more_folds_than_patients_are_refused():
    with pytest.raises(DataError, match="leave nothing for"):
        split_cases({f"p{n}": f"p{n}" for n in range(5)}, SplitConfig(folds=6, fold=6, val_perc=0.2))


def write_split(tmp_path, training, validation, testing, **more):
    """A split file with these cohorts."""
    file = tmp_path / "theirs.json"
    cohorts = {"Training": training, "Validation": validation, "Testing": testing}
    file.write_text(json.dumps({"cohorts": cohorts | more}))
    return file


def test_a_split_file_is_taken_as_it_is(tmp_path):
    file = write_split(tmp_path, ["c", "a"], ["b"], ["d"])
    assert read_split_file(file, {name: name for name in "abcd"}) == {
        "Training": ("c", "a"),
        "Validation": ("b",),
        "Testing": ("d",),
    }


def test_everything_that_does_not_fit_in_a_split_file_is_listed(tmp_path):
    file = write_split(tmp_path, ["a", "a", "x"], [], ["c"], Holdout=["b"])
    with pytest.raises(DataError) as caught:
        read_split_file(file, {"a": "p1", "b": "p2", "c": "p1"})
    assert str(caught.value).startswith(str(file))
    assert list(caught.value.details) == [
        "unknown cohort 'Holdout'",
        "Validation is empty",
        "case 'x' is not in the project",
        "case b is in no cohort",
        "case a is named twice",
        "patient p1 is in Training and Testing",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cohorts": {"Training": []}}', '{"cohorts": 3}'])
def test_what_is_no_split_file_is_named(tmp_path, text):
    file = tmp_path / "theirs.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"theirs\.json: is not a split\.json"):
        read_split_file(file, TEN)


def test_a_split_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read_split_file(tmp_path / "nowhere.json", TEN)
