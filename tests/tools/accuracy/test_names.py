"""Names of drawn patients with one kind of evidence left out, and the page that counts them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from scripts.ops.levels import geometry
from scripts.tools.accuracy.names import FIELDS, INFERENCE, NO_GEOMETRY, Volume, markdown, name
from scripts.training.cohort import CohortNaming
from tests.drawn_spines import CHAIN, GROUPS, PIXEL_MM, one_level_up, unsure, volume


class Labelled:
    """One labelled patient, as a `SliceDataset` holds it."""

    def __init__(self) -> None:
        self.data = [{"image": "a.nii.gz"}]

    def label(self, case: int) -> np.ndarray:
        return volume(0).numpy().astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Of the EM, which takes most of the time here; drawn patients need no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "STEPS", 3)
        yield


@pytest.fixture(scope="module")
def cohort() -> CohortNaming:
    labelled: Any = Labelled()
    return CohortNaming(labelled, GROUPS, CHAIN, PIXEL_MM)


def seen(cohort: CohortNaming, number: int, section: str, found: Tensor, prompts: Tensor | None = None) -> Volume:
    """A drawn patient whose network and class prompts call its structures as `found` and `prompts` do."""
    probs = unsure(found)
    spine = cohort.names.spine(probs, PIXEL_MM)
    votes = {"network": cohort.names.evidence(probs, spine)}
    if prompts is not None:
        votes["prompts"] = 4 * cohort.names.evidence(unsure(prompts), spine)
    return Volume(str(number), section, spine.tissue, spine.landmarks, votes, found, volume(number))


@pytest.fixture(scope="module")
def lines(cohort: CohortNaming) -> pd.DataFrame:
    """Networks that are one level off in one of four patients, prompts that are right."""
    volumes = []
    for number in range(1, 5):
        truth = volume(number)
        found = one_level_up(truth) if number == 2 else truth
        volumes.append(seen(cohort, number, "test" if number > 3 else "unlabelled", found, truth))
    return pd.DataFrame(name(cohort, volumes))


class TestVolume:
    def test_votes_that_are_left_out_say_nothing(self, cohort: CohortNaming) -> None:
        of = seen(cohort, 1, "test", volume(1), one_level_up(volume(1)))
        both = of.seen(("network", "prompts")).evidence
        np.testing.assert_allclose(both, of.votes["network"] + of.votes["prompts"])
        np.testing.assert_allclose(of.seen(("network",)).evidence, of.votes["network"])
        assert not of.seen(()).evidence.any()
        alone = seen(cohort, 1, "test", volume(1))
        np.testing.assert_allclose(alone.seen(("network", "prompts")).evidence, alone.votes["network"])


class TestName:
    def test_every_volume_by_every_kind(self, lines: pd.DataFrame) -> None:
        kinds = ["all", INFERENCE, "no network", "geometry alone", NO_GEOMETRY]
        assert lines["evidence"].drop_duplicates().tolist() == kinds
        assert (lines.groupby("evidence").size() == 4).all()
        assert lines["posterior"].isna().equals(lines["evidence"] == NO_GEOMETRY)

    def test_without_geometry_a_network_that_is_off_stays_off(self, lines: pd.DataFrame) -> None:
        right = lines.groupby("evidence")["right"].mean()
        assert right[NO_GEOMETRY] == 0.75
        assert right["all"] >= 0.9
        off = lines[(lines["evidence"] == NO_GEOMETRY) & ~lines["right"].astype(bool)]
        assert (off["other_names"] >= 4).all()
        assert (lines[lines["right"].astype(bool)]["other_names"] == 0).all()
        assert lines["mdice"].between(0, 1).all()

    def test_test_volumes_take_no_part_in_the_geometry(self, cohort: CohortNaming) -> None:
        volumes = [seen(cohort, n, "unlabelled", volume(n)) for n in (1, 2)]
        alone = list(name(cohort, volumes))
        odd = seen(cohort, 4, "test", one_level_up(volume(4)))
        beside = [line for line in name(cohort, [*volumes, odd]) if line["section"] == "unlabelled"]
        assert alone == beside

    def test_without_prompts(self, cohort: CohortNaming) -> None:
        kinds = [line["evidence"] for line in name(cohort, [seen(cohort, 1, "test", volume(1))])]
        assert kinds == ["all", INFERENCE, "geometry alone", NO_GEOMETRY]

    def test_labels_that_show_no_landmark(self) -> None:
        empty: Any = Labelled()
        empty.label = lambda case: np.zeros((2, 40, 20), np.uint8)
        cohort = CohortNaming(empty, GROUPS, CHAIN, PIXEL_MM)
        assert [line["evidence"] for line in name(cohort, [seen(cohort, 1, "test", volume(1))])] == [NO_GEOMETRY]


def scan(right: bool, mdice: float, posterior: float | None, **more: Any) -> dict[str, Any]:
    about = {"method": "cps4", "labelled": 1, "seed": 0, "section": "unlabelled", "case": "a", "evidence": "all"}
    told = {"posterior": posterior, "odd": None if posterior is None else 0}
    return about | {"right": right, "other_names": 0 if right else 2, "mdice": mdice} | told | more


class TestMarkdown:
    def test_value(self) -> None:
        """Of CPS4 three wrong names, two of them flagged by the posterior and one by a distance; of four right ones one
        is flagged by the posterior and one by distances. One wrong name of BCP.
        """
        scans = [scan(False, 0.2, p) for p in (0.1, 0.89)] + [scan(True, 0.8, p) for p in (0.9, 1.0, 0.5)]
        scans += [scan(False, 0.2, 0.95, odd=1), scan(True, 0.8, 1.0, odd=2)]
        scans += [scan(True, 0.7, None, evidence=NO_GEOMETRY), scan(True, 0.75, 1.0, section="test", seed=1)]
        scans += [scan(False, 0.3, 0.2, method="bcp", labelled=2)]
        tissue_alone = scan(False, 0.6, 0.97, method="bcp", labelled=2, other_names=0)
        scans.append(tissue_alone)
        page = markdown(pd.DataFrame(scans)[list(FIELDS)], {"bcp": "BCP", "cps4": "CPS4 (ours)"})
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
        assert ["CPS4 (ours)", "1", "57.1 [25.0, 84.2] (4/7); 54.3", "100.0 [20.7, 100.0] (1/1); 70.0"] in cells
        assert ["CPS4 (ours)", "1", "100.0 [20.7, 100.0] (1/1); 75.0", "–"] in cells
        tissue, by_posterior = "0.0 [0.0, 79.3] (0/1)", "75.0 [30.1, 95.4] (3/4)"
        wrong = ["100.0 [51.0, 100.0] (4/4)", by_posterior, tissue]
        assert ["all", "unlabelled volumes", "9", *wrong, "50.0 [15.0, 85.0] (2/4)"] in cells
        assert ["all", "all", "10", *wrong, "40.0 [11.8, 76.9] (2/5)"] in cells
        one = ["100.0 [43.9, 100.0] (3/3)", "66.7 [20.8, 93.9] (2/3)", "–", "40.0 [11.8, 76.9] (2/5)"]
        assert ["all", "1 labelled", "8", *one] in cells
        assert [INFERENCE, "all", "0", "–", "–", "–", "–"] in cells
        assert "benchmark names DIR" in page


def test_a_folder_without_rows(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.__main__ import main

    assert main(["benchmark", "names", str(tmp_path)]) == 1
    assert "holds no finished row with a network" in capsys.readouterr().err
