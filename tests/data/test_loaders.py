from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from scripts.data import loaders as shares
from scripts.data.cache import SliceDataset
from scripts.data.datalist import DataError
from scripts.data.loaders import EndlessBatches, TwoStreamLoader, VolumeShare, own_share_first, scans_to_label
from scripts.data.output_folder import OutputFolder
from tests.tiny import CLASSES, cache, volumes


def batches(size: int, batch_size: int, count: int, seed: int = 0, start: int = 0) -> list[list[int]]:
    sampler = EndlessBatches(range(size), batch_size, seed)
    sampler.start_step = start
    return list(islice(sampler, count))


class TestEndlessBatches:
    @pytest.mark.parametrize(("size", "batch_size"), [(7, 3), (4, 4), (2, 5), (1, 3), (12, 1)])
    def test_every_pass_sees_every_slice_once(self, size: int, batch_size: int) -> None:
        drawn = batches(size, batch_size, 20)
        assert {len(batch) for batch in drawn} == {batch_size}
        flat = [index for batch in drawn for index in batch]
        for start in range(0, len(flat) - size + 1, size):
            assert sorted(flat[start : start + size]) == list(range(size))

    def test_passes_differ(self) -> None:
        first, second = batches(12, 12, 2)
        assert first != second
        assert first != list(range(12))

    def test_function_of_seed_and_step(self) -> None:
        torch.rand(3)
        once = batches(7, 3, 10)
        torch.rand(5)
        assert batches(7, 3, 10) == once
        assert batches(7, 3, 10, seed=1) != once

    @pytest.mark.parametrize("start", [0, 1, 2, 6, 9])
    def test_start_in_the_middle(self, start: int) -> None:
        assert batches(7, 3, 10 - start, start=start) == batches(7, 3, 10)[start:]

    @pytest.mark.parametrize("start", [0, 3])
    def test_shares_make_the_whole_batch(self, start: int) -> None:
        parts = []
        for rank in range(3):
            sampler = EndlessBatches(range(7), 6, rank=rank, ranks=3)
            sampler.start_step = start
            parts.append(list(islice(sampler, 5)))
        assert [list(chain(*shares)) for shares in zip(*parts, strict=True)] == batches(7, 6, 5, start=start)

    def test_batch_that_cannot_be_shared(self) -> None:
        with pytest.raises(DataError, match="a batch of 8 slices cannot be shared equally by 3 processes"):
            EndlessBatches(range(7), 8, ranks=3)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="there are no slices to draw batches from; check the datalist's sections"):
            next(iter(EndlessBatches([], 2)))


@pytest.fixture
def datasets(tmp_path: Path) -> tuple[SliceDataset, SliceDataset]:
    slices = cache(tmp_path / "cache")
    labelled = SliceDataset(volumes(tmp_path / "a"), slices, CLASSES)
    return labelled, SliceDataset(volumes(tmp_path / "b", (4, 2, 1), labelled=False), slices, CLASSES)


def equal(a: dict[str, dict[str, torch.Tensor]], b: dict[str, dict[str, torch.Tensor]]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[s][name], b[s][name]) for s in a for name in a[s])


class TestTwoStreamLoader:
    def test_shape(self, datasets: tuple[SliceDataset, SliceDataset]) -> None:
        pair = next(iter(TwoStreamLoader(*datasets, batch_size=2, unlabelled_batch_size=3)))
        assert pair["labelled"]["image"].shape == pair["labelled"]["label"].shape == (2, 1, 16, 16)
        assert pair["unlabelled"]["image"].shape == (3, 1, 16, 16)
        assert "label" not in pair["unlabelled"]
        assert pair["unlabelled"]["is_unlabelled"].shape == (3, CLASSES)

    def test_without_unlabelled(self, datasets: tuple[SliceDataset, SliceDataset]) -> None:
        labelled, unlabelled = datasets
        both = next(iter(TwoStreamLoader(labelled, unlabelled, 2, 2)))
        for nothing in (None, SliceDataset([], labelled.cache, CLASSES)):
            pair = next(iter(TwoStreamLoader(labelled, nothing, 2, 2)))
            assert pair["unlabelled"] is None
            assert torch.equal(pair["labelled"]["image"], both["labelled"]["image"])

    @pytest.mark.parametrize("start", [1, 4])
    def test_start_at(self, datasets: tuple[SliceDataset, SliceDataset], start: int) -> None:
        whole = list(islice(TwoStreamLoader(*datasets, 2, 3, seed=4), 6))
        part = TwoStreamLoader(*datasets, 2, 3, seed=4)
        part.start_at(start)
        assert all(equal(a, b) for a, b in zip(islice(part, 6 - start), whole[start:], strict=True))
        assert not equal(whole[0], whole[start])

    def test_workers_agree(self, datasets: tuple[SliceDataset, SliceDataset]) -> None:
        alone = list(islice(TwoStreamLoader(*datasets, 2, 3), 5))
        loader = TwoStreamLoader(*datasets, 2, 3, num_workers=2)
        loader.start_at(1)
        assert all(equal(a, b) for a, b in zip(islice(loader, 4), alone[1:], strict=True))

    def test_leaves_the_global_random_state_alone(self, datasets: tuple[SliceDataset, SliceDataset]) -> None:
        before = torch.get_rng_state()
        next(iter(TwoStreamLoader(*datasets, 2, 3)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_streams_have_orders_of_their_own(self, datasets: tuple[SliceDataset, SliceDataset]) -> None:
        loader = TwoStreamLoader(datasets[0], datasets[0], 5, 5)
        pair = next(iter(loader))
        assert not torch.equal(pair["labelled"]["image"], pair["unlabelled"]["image"])


class TestVolumeShare:
    @pytest.mark.parametrize(("count", "ranks"), [(7, 2), (4, 4), (2, 5), (1, 3), (6, 1)])
    def test_every_volume_once(self, count: int, ranks: int) -> None:
        parts = [VolumeShare(range(count), rank, ranks) for rank in range(ranks)]
        assert sorted(volume for part in parts for volume in part) == list(range(count))
        assert [len(part) for part in parts] == [len(list(part)) for part in parts]

    @pytest.mark.parametrize(
        ("count", "ranks", "each"), [(7, 2, 4), (4, 4, 1), (2, 5, 1), (1, 3, 1), (6, 1, 6), (0, 2, 0)]
    )
    def test_equal_shares(self, count: int, ranks: int, each: int) -> None:
        parts = [list(VolumeShare(range(count), rank, ranks, equal=True)) for rank in range(ranks)]
        assert {len(part) for part in parts} == {each}
        assert {volume for part in parts for volume in part} == set(range(count))


class TestOwnShareFirst:
    def test_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert own_share_first("abcde") == list("abcde")
        monkeypatch.setattr(shares.idist, "get_world_size", lambda: 2)
        monkeypatch.setattr(shares.idist, "get_rank", lambda: 1)
        assert own_share_first("abcde") == list("cdeab")
        assert own_share_first("") == []


class TestScansToLabel:
    def test_finished_scans_are_left_out(self, tmp_path: Path) -> None:
        scans, out = tmp_path / "scans", tmp_path / "out"
        scans.mkdir()
        out.mkdir()
        for name in "abcde":
            (scans / f"{name}.nii.gz").touch()
        (out / "c_seg.nii.gz").touch()
        cases = lambda **share: [scan["case"] for scan in scans_to_label(scans, OutputFolder(out), **share)]  # noqa: E731
        assert cases() == ["a", "b", "d", "e"]
        # what is finished changes nobody's share of the rest
        assert [cases(rank=rank, ranks=2) for rank in range(2)] == [["a", "e"], ["b", "d"]]

    def test_no_folder(self, tmp_path: Path) -> None:
        assert scans_to_label("", OutputFolder(tmp_path)) == []
