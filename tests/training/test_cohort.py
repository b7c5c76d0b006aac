"""Names of a cohort of drawn patients whose network is right about tissue and wrong about levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scripts.training.cohort import CohortNaming, KeepGeometry, Seen
from scripts.weights import SETTINGS, WEIGHTS
from tests.drawn_spines import CHAIN, GROUPS, PIXEL_MM, one_level_up, unsure, volume


class Volumes:
    """Volumes as a `SliceDataset` holds them: the image of each is its label map."""

    def __init__(self, *labels: Tensor, with_label: bool = True) -> None:
        self.labels, self.data = labels, [{"image": "a.nii.gz"} for _ in labels]
        self.with_label = with_label

    def label(self, case: int) -> np.ndarray | None:
        return self.labels[case].numpy().astype(np.uint8) if self.with_label else None

    def image(self, case: int) -> np.ndarray:
        return self.labels[case].numpy().astype(np.float16)


def naming(*labels: Tensor, **more: Any) -> CohortNaming:
    dataset: Any = Volumes(*labels)
    return CohortNaming(dataset, GROUPS, CHAIN, PIXEL_MM, **more)


class TestCohortNaming:
    def test_levels_of_a_network_that_is_one_off_are_put_right(self) -> None:
        """One labelled patient, eleven others; in a third of these every level is one too high."""
        cohort, truths = naming(volume(0)), [volume(k) for k in range(1, 12)]
        found = [one_level_up(t) if k % 3 == 0 else t for k, t in enumerate(truths)]
        tissue, seen = zip(*(cohort.see(unsure(label)) for label in found), strict=True)
        geometry = cohort.fit(seen)
        assert geometry is not None
        right = [
            float((cohort.label(t, s, geometry) == truth)[truth > 0].float().mean()) > 0.9
            for t, s, truth in zip(tissue, seen, truths, strict=True)
        ]
        before = [
            float((label == truth)[truth > 0].float().mean()) > 0.9 for label, truth in zip(found, truths, strict=True)
        ]
        assert np.mean(before) < 0.7
        assert np.mean(right) >= 0.9
        certainty = [cohort.certainty(s, geometry) for s in seen]
        assert all(0 <= c <= 1 for c in certainty)
        assert np.mean(certainty) > 0.7

    def test_class_prompts_vote_by_their_weight(self) -> None:
        cohort, label = naming(volume(0), gamma=0.25), volume(1)
        probs, maps = unsure(label), unsure(one_level_up(label))
        network = cohort.see(probs)[1].evidence
        prompts = cohort.see(maps)[1].evidence
        np.testing.assert_allclose(cohort.see(probs, maps)[1].evidence, network + 0.25 * prompts)
        np.testing.assert_allclose(cohort.see(probs, maps, 2.0)[1].evidence, network + 2 * prompts)
        np.testing.assert_allclose(cohort.see(probs, maps, 0.0)[1].evidence, network)

    def test_unlabelled_volumes_move_the_geometry(self) -> None:
        cohort = naming(volume(0))
        alone = cohort.fit([])
        together = cohort.fit([cohort.see(unsure(volume(k)))[1] for k in range(1, 5)])
        assert alone is not None
        assert together is not None
        assert np.abs(alone.mean - together.mean).max() > 1

    def test_labels_without_a_landmark(self) -> None:
        assert naming(torch.zeros(2, 40, 20, dtype=torch.int64)).fit([]) is None
        labelled: Any = Volumes(volume(0))
        assert CohortNaming(labelled, GROUPS, torch.tensor([], dtype=torch.int64), PIXEL_MM).fit([]) is None
        unlabelled: Any = Volumes(volume(0), with_label=False)
        assert CohortNaming(unlabelled, GROUPS, CHAIN, PIXEL_MM).fit([]) is None

    def test_a_volume_in_which_nothing_is_seen(self) -> None:
        cohort = naming(volume(0))
        geometry = cohort.fit([])
        assert geometry is not None
        tissue, seen = cohort.see(unsure(torch.zeros(2, 40, 20, dtype=torch.int64)))
        assert isinstance(seen, Seen)
        assert cohort.certainty(seen, geometry) == 0.0
        assert not cohort.label(tissue, seen, geometry).any()


class Certain(nn.Module):
    """Logits of an image that holds class ids."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.sure * unsure(image[:, 0].long()).log()


class TestKeepGeometry:
    def kept(self, folder: Path, *labels: Tensor) -> KeepGeometry:
        """With weights on disk that differ from those of the network, as after the best epoch of a training."""
        best = Certain()
        nn.init.constant_(best.sure, 1.0)
        folder.mkdir(exist_ok=True)
        torch.save(best.state_dict(), folder / WEIGHTS)
        (folder / SETTINGS).write_text('{"network": "ResUNet"}')
        unlabelled: Any = Volumes(*labels)
        return KeepGeometry(naming(volume(0)), Certain(), unlabelled, folder, lambda v, n: n(v))

    def test_is_written_beside_the_weights(self, tmp_path: Path) -> None:
        keep = self.kept(tmp_path / "models", volume(1), volume(2))
        before = (tmp_path / "models" / WEIGHTS).read_bytes()
        keep()
        settings = json.loads((tmp_path / "models" / SETTINGS).read_text())
        expected = keep.naming.fit([keep.naming.see(unsure(volume(k)))[1] for k in (1, 2)])
        assert expected is not None
        assert settings["chain_geometry"] == expected.as_json()
        assert settings["network"] == "ResUNet"
        assert (tmp_path / "models" / WEIGHTS).read_bytes() == before
        assert keep.network.sure == 0  # the network in training stays as it is

    def test_at_most_so_many_volumes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scripts.training.cohort.MOST_VOLUMES", 2)
        keep = self.kept(tmp_path / "models", *(volume(k) for k in (1, 2, 3, 4, 5)))
        seen: list[int] = []
        see = keep._see
        monkeypatch.setattr(keep, "_see", lambda network, case: seen.append(case) or see(network, case))
        keep()
        assert seen == [0, 3]

    def test_where_nothing_was_kept_or_nothing_can_be_fitted(self, tmp_path: Path) -> None:
        keep = self.kept(tmp_path / "models")
        keep.naming = naming(torch.zeros(2, 40, 20, dtype=torch.int64))
        keep()
        assert "chain_geometry" not in (tmp_path / "models" / SETTINGS).read_text()
        (tmp_path / "models" / WEIGHTS).unlink()
        keep()
