"""Names of a cohort of drawn patients whose network is right about tissue and wrong about levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from scripts.ops.levels.geometry import ChainGeometry
from scripts.ops.levels.naming import ChainNaming
from scripts.training.cohort import CohortGeometry, CohortNaming, KeepGeometry, NameVolumed, Seen, geometry_beside
from scripts.weights import SETTINGS, WEIGHTS
from tests.drawn_spines import CHAIN, GROUPS, PIXEL_MM, TABLE, one_level_up, unsure, volume


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

    def test_begins_with_another_cohort_s_geometry(self) -> None:
        prior = fitted_to(naming(volume(5)), volume(6), volume(7))
        alone, begun = naming(volume(0)).fit([]), naming(volume(0), prior=prior).fit([])
        assert alone is not None
        assert begun is not None
        assert np.abs(begun.mean - prior.mean)[:, 0].mean() < 0.2 * np.abs(alone.mean - prior.mean)[:, 0].mean()

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


DISCS = [int(c) for c in CHAIN if "/" in TABLE.names[int(c)]]


class TestGeometryBeside:
    """Places are those of classes: of the discs from L5/S upwards, with what lies below at place 0."""

    def written(self, folder: Path, *, from_class: str = "L5/S") -> Path:
        """Weights of a training whose labels name the discs from one upwards; the tilt tells a disc's id."""
        named = DISCS[DISCS.index(TABLE.names.index(from_class)) :]
        mean = np.zeros((len(named) + 1, 4))
        mean[:, 0] = [-1, *named]
        kept = ChainGeometry(mean, np.ones_like(mean)).as_json()
        (folder / SETTINGS).write_text(json.dumps({"labelled_classes": [0, *named], "chain_geometry": kept}))
        return folder / WEIGHTS

    def tilts(self, weights: Path, chain: list[int]) -> list[float] | None:
        found = geometry_beside(weights, TABLE, chain)
        return None if found is None else found.mean[:, 0].tolist()

    def test_same_chain(self, tmp_path: Path) -> None:
        assert self.tilts(self.written(tmp_path), DISCS) == [-1, *DISCS]

    def test_own_labels_begin_higher(self, tmp_path: Path) -> None:
        """The place below L4/L5 is that of L5/S, which the other training's labels named."""
        assert self.tilts(self.written(tmp_path), [0, *DISCS[1:4]]) == DISCS[:4]

    def test_own_labels_begin_lower(self, tmp_path: Path) -> None:
        """What lay below L4/L5 there is L5/S here, and what lies below that was not seen."""
        tilts = self.tilts(self.written(tmp_path, from_class="L4/L5"), DISCS[:3])
        np.testing.assert_equal(tilts, [np.nan, -1, *DISCS[1:3]])

    def test_nothing_to_begin_with(self, tmp_path: Path) -> None:
        assert geometry_beside("", TABLE, CHAIN) is None
        assert geometry_beside(tmp_path / WEIGHTS, TABLE, CHAIN) is None
        (tmp_path / SETTINGS).write_text('{"labelled_classes": [0, 1], "chain_geometry": null}')
        assert geometry_beside(tmp_path / WEIGHTS, TABLE, CHAIN) is None
        weights = self.written(tmp_path)
        vertebrae = [int(c) for c in CHAIN if GROUPS[c] == GROUPS[TABLE.names.index("L5")]]
        assert geometry_beside(weights, TABLE, vertebrae) is None
        assert geometry_beside(weights, TABLE, torch.zeros(0, dtype=torch.int64)) is None


class Certain(nn.Module):
    """Logits of an image that holds class ids."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.sure * unsure(image[:, 0].long()).log()


def geometry_of(cohort: CohortNaming, *unlabelled: Tensor, sure: float = 1.0) -> CohortGeometry:
    network, volumes = Certain(), Volumes(*unlabelled)
    nn.init.constant_(network.sure, sure)
    return CohortGeometry(cohort, network, volumes, lambda v, n: n(v))  # type: ignore[arg-type]


def fitted_to(cohort: CohortNaming, *labels: Tensor) -> ChainGeometry:
    geometry = cohort.fit([cohort.see(unsure(label))[1] for label in labels])
    assert geometry is not None
    return geometry


class TestCohortGeometry:
    def test_of_labels_and_what_the_network_sees(self) -> None:
        cohort = naming(volume(0))
        seen = geometry_of(cohort, volume(1), volume(2))
        seen.network.train()
        made = seen.fit(10)
        assert made is not None
        assert made.as_json() == fitted_to(cohort, volume(1), volume(2)).as_json()
        assert seen.network.training

    def test_at_most_so_many_volumes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        geometry = geometry_of(naming(volume(0)), *(volume(k) for k in (1, 2, 3, 4, 5)))
        cases: list[int] = []
        see = geometry._see
        monkeypatch.setattr(geometry, "_see", lambda network, case: cases.append(case) or see(network, case))
        geometry.fit(2)
        assert cases == [0, 3]
        geometry.fit(5)
        assert cases == [0, 3, 0, 1, 2, 3, 4]

    def test_each_process_looks_at_its_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two of them, the second of which has sent its part first; both fit what one process fits."""
        geometry = geometry_of(naming(volume(0)), *(volume(k) for k in (1, 2, 3)))
        alone = geometry.fit(10)
        assert alone is not None
        sent: dict[int, Any] = {}

        def gather(parts: list[Any], seen: dict[int, Seen]) -> None:
            sent[idist.get_rank()] = seen
            parts[:] = [sent.get(0, {}), sent[1]]

        monkeypatch.setattr(idist, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        for rank in (1, 0):
            monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
            made = geometry.fit(10)
        assert (list(sent[0]), list(sent[1])) == ([0, 2], [1])
        assert made is not None
        assert made.as_json() == alone.as_json()

    def test_labels_without_a_landmark(self) -> None:
        geometry = geometry_of(naming(torch.zeros(2, 40, 20, dtype=torch.int64)), volume(1))
        assert not geometry.can_be_fitted
        assert geometry.fit(1) is None


class TestKeepGeometry:
    def kept(self, folder: Path, cohort: CohortNaming, *labels: Tensor) -> KeepGeometry:
        """With weights on disk that differ from those of the network, as after the best epoch of a training."""
        folder.mkdir(exist_ok=True)
        torch.save({"sure": torch.tensor(1.0)}, folder / WEIGHTS)
        (folder / SETTINGS).write_text('{"network": "ResUNet"}')
        return KeepGeometry(geometry_of(cohort, *labels, sure=0.0), folder)

    def test_is_written_beside_the_weights(self, tmp_path: Path) -> None:
        keep = self.kept(tmp_path / "models", cohort := naming(volume(0)), volume(1), volume(2))
        before = (tmp_path / "models" / WEIGHTS).read_bytes()
        keep()
        settings = json.loads((tmp_path / "models" / SETTINGS).read_text())
        assert settings["chain_geometry"] == fitted_to(cohort, volume(1), volume(2)).as_json()
        assert settings["network"] == "ResUNet"
        assert (tmp_path / "models" / WEIGHTS).read_bytes() == before
        assert keep.geometry.network.sure == 0  # the network in training stays as it is

    def test_where_nothing_was_kept_or_nothing_can_be_fitted(self, tmp_path: Path) -> None:
        self.kept(tmp_path / "models", naming(torch.zeros(2, 40, 20, dtype=torch.int64)))()
        assert "chain_geometry" not in (tmp_path / "models" / SETTINGS).read_text()
        keep = self.kept(tmp_path / "models", naming(volume(0)))
        (tmp_path / "models" / WEIGHTS).unlink()
        keep()
        assert "chain_geometry" not in (tmp_path / "models" / SETTINGS).read_text()


class TestNameVolumed:
    def evaluated(self, name: NameVolumed, label: Tensor, seen: Tensor) -> dict[str, Any]:
        """Output of an evaluator for a volume in which a network sees `seen`."""
        engine = Engine(lambda _, batch: name(batch))
        name.attach(engine)
        engine.run([{"pred": unsure(seen).log(), "label": label[:, None]}])
        output: dict[str, Any] = engine.state.output  # type: ignore[assignment]
        return output

    def test_volume_that_the_network_names_one_level_off(self) -> None:
        label = volume(9)
        name = NameVolumed(geometry_of(naming(volume(0)), *(volume(k) for k in range(1, 9))))
        output = self.evaluated(name, label, one_level_up(label))
        inside = label > 0
        assert float((output["named"] == label)[inside].float().mean()) > 0.9
        assert float((output["pred"].argmax(1) == label)[inside].float().mean()) < 0.5

    def test_as_inference_names_it(self) -> None:
        geometry = geometry_of(naming(volume(0)), volume(1), volume(2))
        label = volume(3)
        named = self.evaluated(NameVolumed(geometry), label, one_level_up(label))["named"]
        kept = geometry.fit(200)
        assert kept is not None
        inference = ChainNaming(GROUPS, CHAIN, PIXEL_MM, kept.as_json())
        assert torch.equal(named, inference(unsure(one_level_up(label))).argmax(1))

    def test_geometry_follows_the_network(self) -> None:
        geometry = geometry_of(naming(volume(0)), volume(1), sure=0.0)
        name = NameVolumed(geometry)
        self.evaluated(name, volume(2), volume(2))
        before = name.fitted
        nn.init.constant_(geometry.network.sure, 1.0)  # type: ignore[arg-type]
        self.evaluated(name, volume(2), volume(2))
        assert before is not None
        assert name.fitted is not None
        assert before.as_json() != name.fitted.as_json()

    def test_without_a_landmark_names_are_the_network_s(self) -> None:
        name = NameVolumed(geometry_of(naming(torch.zeros(2, 40, 20, dtype=torch.int64)), volume(1)))
        seen = one_level_up(volume(2))
        assert torch.equal(self.evaluated(name, volume(2), seen)["named"], seen)
