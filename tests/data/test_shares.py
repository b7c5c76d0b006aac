from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data import shares
from scripts.data.shares import VolumeShare, own_share_first, scans_to_label


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
        cases = lambda **share: [scan["case"] for scan in scans_to_label(scans, out, **share)]  # noqa: E731
        assert cases() == ["a", "b", "d", "e"]
        # what is finished changes nobody's share of the rest
        assert [cases(rank=rank, ranks=2) for rank in range(2)] == [["a", "e"], ["b", "d"]]

    def test_no_folder(self, tmp_path: Path) -> None:
        assert scans_to_label("", tmp_path) == []
