from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scripts.inference.inferers import VolumeInferer
from scripts.labels import IGNORE, ClassTable
from scripts.ops.levels.ordering import chain_index, decode_order
from scripts.ops.levels.tissue import group_index
from scripts.ops.losses import sigmoid_ramp
from scripts.training.pseudo_labels import MeasuredWeight, PseudoLabelRounds, ordered_label, round_epochs

TABLE = ClassTable.load()
GROUPS, CHAIN = group_index(TABLE), chain_index(TABLE)


class Slices:
    """Two volumes of three and two slices, as a `SliceDataset` without prompts holds them."""

    def __init__(self, prompt_maps: Any = None) -> None:
        generator = np.random.default_rng(0)
        self.images = [generator.normal(size=(count, 8, 4)).astype(np.float16) for count in (3, 2)]
        self.data = [{"image": "a.nii.gz"}, {"image": "b.nii.gz"}]
        self.prompt_maps, self.with_maps = prompt_maps, True

    def image(self, case: int) -> np.ndarray:
        return self.images[case]

    def __len__(self) -> int:
        return 5


class Threshold(nn.Module):
    """Class 1 where the image is above the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.level - image, image - self.level], 1)


def rounds(folder: Path, teacher: nn.Module | None = None, **changes: Any) -> PseudoLabelRounds:
    label = lambda logits, maps: logits.argmax(1)  # noqa: E731
    inferer = VolumeInferer(statistics="volume")
    options: dict[str, Any] = {"epochs": [2, 4], "label": label, "dataset": Slices(), "inferer": inferer}
    return PseudoLabelRounds(teacher or Threshold(), folder=folder, **{**options, **changes})


def batch(*index: int) -> dict[str, Any]:
    images = torch.from_numpy(np.concatenate(Slices().images).astype(np.float32))[list(index), None]
    return {"labelled": {}, "unlabelled": {"image": images, "index": torch.tensor(index)}}


class Cohort:
    """Names class 1 as class 5 plus the number of volumes that were fitted; sure of the first volume only."""

    def __init__(self, fits: bool = True) -> None:
        self.fits = fits

    def fit(self, seen: Sequence[float]) -> int | None:
        return len(seen) if self.fits else None

    def see(self, probs: Tensor, maps: Tensor | None, gamma: float | None) -> tuple[Tensor, float]:
        return probs.argmax(1), float(len(probs))

    def certainty(self, seen: float, geometry: int) -> float:
        return 1.0 if seen == 3 else 0.25  # the first volume has three slices

    def label(self, tissue: Tensor, seen: float, geometry: int) -> Tensor:
        return tissue * (5 + geometry)


class TestRoundsOfACohort:
    def test_all_volumes_are_named_together(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        made = rounds(tmp_path, cohort=Cohort())
        with caplog.at_level(logging.INFO):
            made.start(2)
        assert "names of 1 volumes are certain, of 2" in caplog.text
        data = batch(0, 1, 2)
        label = made(data)["unlabelled"]["pseudo_label"]
        assert torch.equal(label, 7 * (data["unlabelled"]["image"] > 0).to(torch.uint8))

    def test_a_slice_counts_as_often_as_its_volume_s_names_are_certain(self, tmp_path: Path) -> None:
        made = rounds(tmp_path, cohort=Cohort())
        made.start(2)
        torch.manual_seed(0)
        drawn = torch.stack([made(batch(2, 3, 4))["unlabelled"]["pseudo_label"] for _ in range(400)])  # (400, 3, ...)
        ignored = (drawn == IGNORE).flatten(2)
        assert torch.equal(ignored.any(2), ignored.all(2))  # a slice as a whole
        share = ignored.any(2).float().mean(0)
        assert share[0] == 0
        assert ((share[1:] - 0.75).abs() < 0.07).all()

    def test_processes_that_share_a_batch_leave_out_the_same_slices(self, tmp_path: Path) -> None:
        made = [rounds(tmp_path / str(k), cohort=Cohort()) for k in range(3)]
        for one in made:
            one.start(2)
        for seed in range(20):
            torch.manual_seed(seed)  # what else a process has drawn does not matter
            whole, *halves = (
                of(batch(*index))["unlabelled"]["pseudo_label"]
                for of, index in zip(made, [(1, 3, 2, 4), (1, 3), (2, 4)], strict=True)
            )
            assert torch.equal(whole, torch.cat(halves))

    def test_what_is_drawn_repeats_after_a_restart(self, tmp_path: Path) -> None:
        made = rounds(tmp_path, cohort=Cohort())
        made.start(2)
        again = rounds(tmp_path, cohort=Cohort())
        again.load_state_dict(made.state_dict())
        labels = []
        for of in (made, again):
            torch.manual_seed(3)
            labels.append(torch.stack([of(batch(3, 4))["unlabelled"]["pseudo_label"] for _ in range(9)]))
        assert torch.equal(*labels)

    def test_labels_without_a_landmark_are_decoded(self, tmp_path: Path) -> None:
        made = rounds(tmp_path, cohort=Cohort(fits=False))
        made.start(2)
        assert made.certainty is None
        data = batch(0, 4)
        assert torch.equal(made(data)["unlabelled"]["pseudo_label"], (data["unlabelled"]["image"] > 0).to(torch.uint8))


class TestPseudoLabelRounds:
    def test_batches_get_the_label_maps_of_their_slices(self, tmp_path: Path) -> None:
        made = rounds(tmp_path)
        made.start(2)
        data = batch(4, 0, 3)
        label = made(data)["unlabelled"]["pseudo_label"]
        assert label.dtype == torch.uint8
        assert torch.equal(label, (data["unlabelled"]["image"] > 0).to(torch.uint8))
        assert "pseudo_label" not in data["unlabelled"]

    def test_before_the_first_round_and_without_unlabelled_slices(self, tmp_path: Path) -> None:
        made, data = rounds(tmp_path), batch(1)
        made.start(1)
        assert made(data) is data
        made.start(2)
        alone = {"labelled": {}, "unlabelled": None}
        assert made(alone) is alone

    def test_labels_stay_until_the_next_round(self, tmp_path: Path) -> None:
        teacher = Threshold()
        made = rounds(tmp_path, teacher)
        made.start(2)
        first = made(batch(0, 1))["unlabelled"]["pseudo_label"]
        nn.init.constant_(teacher.level, 100.0)
        made.start(3)
        assert torch.equal(made(batch(0, 1))["unlabelled"]["pseudo_label"], first)
        made.start(4)
        assert not made(batch(0, 1))["unlabelled"]["pseudo_label"].any()

    def test_the_teacher_keeps_its_mode_and_gets_no_gradient(self, tmp_path: Path) -> None:
        teacher = Threshold().train()
        rounds(tmp_path, teacher).start(2)
        assert teacher.training
        assert teacher.level.grad is None

    @pytest.mark.parametrize("amp", [True, False])
    def test_mixed_precision(self, tmp_path: Path, amp: bool) -> None:
        asked: list[bool] = []

        def label(logits: Tensor, maps: Any) -> Tensor:
            assert logits.dtype == torch.float32  # what follows is exact
            return logits.argmax(1)

        def inferer(volume: Tensor, teacher: nn.Module) -> Tensor:
            asked.append(torch.is_autocast_enabled("cpu"))
            return teacher(volume)

        rounds(tmp_path, label=label, inferer=inferer, amp=amp).start(2)
        assert asked == [amp, amp]

    @pytest.mark.parametrize("keep", [True, False])
    def test_maps_beside_a_pseudo_label(self, tmp_path: Path, keep: bool) -> None:
        made, data = rounds(tmp_path, keep_maps=keep), batch(1, 3)
        data["unlabelled"].update(attention_maps=torch.rand(2, 2, 4, 2), thresholds=torch.rand(2, 2))
        assert made(data) is data
        assert made.dataset.with_maps
        made.start(2)
        assert ("attention_maps" in made(data)["unlabelled"]) == ("thresholds" in made(data)["unlabelled"]) == keep
        assert made.dataset.with_maps == keep  # not even read from the disk
        again = rounds(tmp_path, keep_maps=keep)
        again.load_state_dict(made.state_dict())
        assert again.dataset.with_maps == keep

    def test_without_the_prompts_that_it_was_meant_to_have(self, tmp_path: Path) -> None:
        """`when_no_prompt_model: supervised`: nothing of the unlabelled slices is used."""
        made, data = rounds(tmp_path, dataset=Slices(SimpleNamespace(available=False))), batch(1)
        made.start(2)
        assert made(data) is data

    def test_resumed(self, tmp_path: Path) -> None:
        made = rounds(tmp_path)
        made.start(2)
        again = rounds(tmp_path)
        again.load_state_dict(made.state_dict())
        assert torch.equal(*(r(batch(0, 4))["unlabelled"]["pseudo_label"] for r in (made, again)))
        fresh = rounds(tmp_path)
        fresh.load_state_dict({"epoch": 0})
        assert "pseudo_label" not in fresh(batch(0))["unlabelled"]

    def test_resumed_without_its_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="cannot be resumed; start it anew"):
            rounds(tmp_path).load_state_dict({"epoch": 2})

    def test_only_the_last_two_rounds_are_kept(self, tmp_path: Path) -> None:
        made = rounds(tmp_path, epochs=range(1, 6))
        for epoch in range(1, 6):
            made.start(epoch)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_000004.npy", "epoch_000005.npy"]

    def test_rounds_of_an_earlier_run_do_not_crowd_out_this_one(self, tmp_path: Path) -> None:
        for epoch in (40, 50):
            np.save(tmp_path / f"epoch_{epoch:06d}.npy", np.zeros(1))
        made = rounds(tmp_path)
        made.start(2)
        again = rounds(tmp_path)
        again.load_state_dict(made.state_dict())
        assert [path.name for path in tmp_path.iterdir()] == ["epoch_000002.npy"]

    def test_weighed_by_held_out_volumes(self, tmp_path: Path) -> None:
        seen: list[Any] = []

        def label(logits: Tensor, maps: Tensor, gamma: float = 9.0) -> Tensor:
            seen.append(gamma)
            return logits.argmax(1)

        def weigh(evidence: Any, label: Any) -> float:
            logits, maps = evidence(weigh.volumes.slices, 1)
            assert logits.shape == maps.shape == (2, 2, 8, 4)
            return 0.25

        weigh.volumes = SimpleNamespace(slices=Slices())
        built: list[Any] = []
        read = lambda dataset, case, number: (torch.zeros(2, 4, 2), None)  # noqa: E731
        dataset = Slices(SimpleNamespace(available=True, read=read, build=built.append))
        rounds(tmp_path, dataset=dataset, label=label, weigh=weigh).start(2)
        assert built == [weigh.volumes.slices]
        assert seen == [0.25, 0.25]
        rounds(tmp_path, label=label, weigh=weigh).start(2)  # no prompts, nothing to weigh
        assert seen[2:] == [9.0, 9.0]

    def test_maps_of_a_volume_come_with_it(self, tmp_path: Path) -> None:
        seen = []

        def label(logits: Tensor, maps: Tensor) -> Tensor:
            seen.append(maps)
            return logits.argmax(1)

        read = lambda dataset, case, number: (torch.full((2, 4, 2), 10.0 * case + number), None)  # noqa: E731
        dataset = Slices(SimpleNamespace(available=True, read=read))
        rounds(tmp_path, dataset=dataset, label=label).start(2)
        assert [tuple(maps.shape) for maps in seen] == [(3, 2, 8, 4), (2, 2, 8, 4)]
        assert [maps[:, 0, 0, 0].tolist() for maps in seen] == [[0.0, 1.0, 2.0], [10.0, 11.0]]

    @pytest.mark.parametrize("ranks", [2, 3])
    def test_processes_share_the_volumes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
        alone = rounds(tmp_path / "alone")
        alone.start(2)
        seen: list[int] = []
        made = rounds(tmp_path / "shared")
        label = made._label
        monkeypatch.setattr(made, "_label", lambda case, *args: seen.append(case) or label(case, *args))
        monkeypatch.setattr("scripts.training.pseudo_labels.idist.get_world_size", lambda: ranks)
        (tmp_path / "shared").mkdir()
        for rank in reversed(range(ranks)):  # the first comes last: it joins what the others left
            monkeypatch.setattr("scripts.training.pseudo_labels.idist.get_rank", lambda rank=rank: rank)
            made._label_share(None) if rank else made.start(2)
        assert sorted(seen) == [0, 1]
        data = batch(*range(5))
        assert torch.equal(*(r(data)["unlabelled"]["pseudo_label"] for r in (alone, made)))
        assert [path.name for path in (tmp_path / "shared").iterdir()] == ["epoch_000002.npy"]


class TestRoundEpochs:
    @pytest.mark.parametrize(
        ("epochs", "start", "number", "expected"),
        [
            (6, 0.0, 1, [4]),
            (6, 0.0, 2, [3, 5]),
            (60, 0.5, 2, [41, 51]),
            (5, 0.5, 1, [4]),  # the ramp rises within the third epoch: active are 3, 4 and 5
            (4, 0.5, 3, [3, 4]),
            (5, 0.0, 0, []),
            (3, 1.0, 2, []),
        ],
    )
    def test_value(self, epochs: int, start: float, number: int, expected: list[int]) -> None:
        ramp = partial(sigmoid_ramp, start=start, length=0.15)
        assert round_epochs(epochs, ramp, number) == expected
        first = [epoch for epoch in range(1, epochs + 1) if start < epoch / epochs][: bool(number)]
        assert round_epochs(epochs, ramp, number, at_once=True) == sorted({*first, *expected})


class TestOrderedLabel:
    def test_twin(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(3, TABLE.num_classes, 16, 8, generator=generator)
        maps = torch.rand(logits.shape, generator=generator)
        probs = logits.softmax(1)
        evidence = (probs + 1e-4).log() + 0.5 * (maps + 1e-3).log()
        expected = decode_order(probs, evidence, groups=GROUPS, chain=CHAIN, pooled=True)
        assert torch.equal(ordered_label(logits, maps, groups=GROUPS, chain=CHAIN, gamma=0.5), expected)
        without = ordered_label(logits, None, groups=GROUPS, chain=CHAIN)
        assert torch.equal(ordered_label(logits, maps, groups=GROUPS, chain=CHAIN, gamma=0.0), without)


class Volumes:
    """Held-out volumes of one slice: the level is class 1 in some columns, 2 in the rest; class 3 is nobody's."""

    slices = "slices of the held-out volumes"

    def __init__(self, columns: list[int], hidden: bool = False) -> None:
        self.columns, self.hidden = columns, hidden

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, case: int) -> dict[str, Any]:
        label = torch.full((1, 1, 2, 6), 2, dtype=torch.uint8)
        label[..., : self.columns[case]] = 1
        return {"label": label, "is_unlabelled": torch.tensor([False, False, self.hidden, False])}


def evidence(slices: Any, case: int) -> tuple[Tensor, Tensor]:
    """The teacher takes everything for class 2, the prompts take the first three columns for class 1."""
    assert slices == Volumes.slices
    logits = torch.zeros(1, 4, 2, 6)
    logits[:, 2] = 1.0
    maps = torch.zeros(1, 4, 2, 6)
    maps[:, 1, :, :3] = 1.5
    return logits, maps


def label(logits: Tensor, maps: Tensor, gamma: float = 9.0) -> Tensor:
    return (logits + gamma * maps).argmax(1)


class TestMeasuredWeight:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ([3, 3], 1.0),  # the prompts are right: the least weight at which they are heard
            ([0, 0], 0.0),  # they are wrong
            ([3, 3, 0], 1.0),  # right more often than not
            ([], None),
        ],
    )
    def test_value(self, columns: list[int], expected: float | None) -> None:
        assert MeasuredWeight(Volumes(columns), [2.0, 1.0, 0.5, 0.0])(evidence, label) == expected

    def test_classes_that_a_case_does_not_label_do_not_count(self) -> None:
        # without class 2 a volume of none but class 2 has nothing to score, and either weight scores the other alike
        assert MeasuredWeight(Volumes([0], hidden=True), [1.0, 0.0])(evidence, label) == 0.0

    def test_the_log_tells_every_score(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            MeasuredWeight(Volumes([3]), [0.0, 1.0])(evidence, label)
        # weight 0: class 1 is missed, class 2 has Dice 2 · 6 / (12 + 6)
        assert "weight 1 for the class prompts" in caplog.text
        assert "0: 33.3, 1: 100.0" in caplog.text
