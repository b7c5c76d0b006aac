from pathlib import Path

import pytest

from scripts.data.datalist import DataError
from scripts.data.prepare.patients import tell_patients

ROOT = Path("/data")


def told(names, pattern=None):
    """Path -> patient, of "a/{1,2}.nii"-like lists given as text."""
    patients, _ = tell_patients([ROOT / name for name in names], ROOT, pattern)
    return {path.relative_to(ROOT).as_posix(): patient for path, patient in patients.items()}


def groups(names):
    """The sets of scans that count as one patient's."""
    found = {}
    for path, patient in told(names).items():
        found.setdefault(patient, set()).add(path)
    return {frozenset(of) for of in found.values()}


class TestPatients:
    @pytest.mark.parametrize("sequences", [("t1", "t2", "stir"), ("T1w", "sag T2", "Dixon")])
    @pytest.mark.parametrize("inside", ["images/", ""])
    def test_folders_of_sequences(self, sequences, inside):
        names = [f"{s}/{inside}case{n}.nii.gz" for s in sequences for n in range(6)]
        assert groups(names) == {frozenset(f"{s}/{inside}case{n}.nii.gz" for s in sequences) for n in range(6)}

    def test_folders_of_sites(self):
        names = [f"site{s}/images/case{n}.nii.gz" for s in "AB" for n in range(5)]
        assert len(groups(names)) == 10

    def test_folders_of_roles(self):
        names = [f"images{part}/s{n}.nii.gz" for part, n in (("Tr", 1), ("Tr", 2), ("Ts", 3))]
        assert list(told(names).values()) == ["s1", "s2", "s3"]

    @pytest.mark.parametrize(
        ("names", "patient"),
        [
            (["12_t1.mha", "12_t2.mha", "12_t2_SPACE.mha"], "12"),
            (["sub-03/ses-1/anat/sub-03_ses-1_T2w.nii", "sub-03/ses-2/anat/sub-03_ses-2_T1w.nii"], "sub-03"),
            (["Müller T2 1.nii.gz", "Müller T2 2.nii.gz", "Müller T1.nii.gz"], "Müller"),
            (["patient1/image.nii.gz", "patient1/scan2.nii.gz"], "patient1"),
            (["p7/a.nii", "p7/b.nii"], "p7"),
            (["007/a.nii", "007/b.nii"], "007"),
            (["Maskell/t2.nii", "Maskell/stir.nii"], "Maskell"),
            (["siteA/patient_9/t2/x.nii", "siteA/patient_9/t1/y.nii"], "patient_9"),
            (["a1_visit1_t2.nii", "a1_visit2_t2.nii"], "a1"),
            (["a1_20190304.nii", "a1_20200304.nii"], "a1"),
            (["t2_case5.nii", "t1_case5.nii"], "case5"),
            (["case_0000.nii.gz"], "case_0000"),
        ],
    )
    def test_one(self, names, patient):
        others = ["q/zz_t2.nii", "q/yy_t2.nii"]  # so that names differ
        found = told([*names, *others])
        assert {found[name] for name in names} == {patient}

    @pytest.mark.parametrize("name", ["a_b", "spine_018", "Case12", "anna", "2019_x"])
    def test_names_alone(self, name):
        assert told([f"images/{name}.nii.gz", "images/other.nii.gz"])[f"images/{name}.nii.gz"] == name

    def test_what_all_names_have_tells_nothing(self):
        names = [f"lumbar_t2_{n:03d}.nii" for n in range(4)]
        assert list(told(names).values()) == [f"lumbar_{n:03d}" for n in range(4)]
        assert list(told([f"scan{n}.nii" for n in range(3)]).values()) == ["scan0", "scan1", "scan2"]

    def test_same_names_in_folders_of_people(self):
        names = [f"{who}/{n}.nii" for who in ("Smith", "Maskell") for n in (1, 2)]
        assert groups(names) == {frozenset(f"{who}/{n}.nii" for n in (1, 2)) for who in ("Smith", "Maskell")}

    def test_same_names_in_unknown_groups(self):
        # who knows whether "new" is a site or a sequence: the same name is one patient, which no split tears apart
        names = [f"{group}/images/{n}.nii" for group in ("new", "old") for n in range(3)]
        assert len(groups(names)) == 3

    def test_years_and_folds_are_nobody(self):
        names = [f"{group}/case{n}.nii" for group, n in (("2019", 1), ("2019", 2), ("fold1", 3), ("train", 4))]
        assert len(groups(names)) == 4


class TestPattern:
    def test_value(self):
        assert told(["x/a-1.nii", "y/a-2.nii", "y/b-1.nii"], "/([a-z])-") == {
            "x/a-1.nii": "a",
            "y/a-2.nii": "a",
            "y/b-1.nii": "b",
        }

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(", "is no regular expression"),
            ("a", "has no group; put brackets"),
            ("(b)", r"a\.nii: --patient '\(b\)' fi"),
        ],
    )
    def test_exception(self, pattern, message):
        with pytest.raises(DataError, match=message):
            told(["a.nii"], pattern)


def test_rules_are_said_with_an_example():
    scans = [ROOT / name for name in ("t1/images/case0.nii", "t2/images/case0.nii", "t2/images/case1.nii")]
    assert tell_patients(scans, ROOT)[1] == [
        "patients: 2 of 3 scans, told by the file's name, without sequence and visit; "
        '"t1/images/case0.nii" is of patient "case0"'
    ]
