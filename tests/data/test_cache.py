from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, NormalizeIntensityd, ScaleIntensityd
from monai.utils import set_determinism

from scripts.data.cache import OPEN_ARRAYS, JoinedSlices, SliceCache, SliceDataset, VolumeDataset
from scripts.data.transforms import MapLabelValuesd
from tests.tiny import CLASSES, SIZE, cache, load_transform, volumes


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    return volumes(tmp_path / "data")


def scaled(factor: float = 1.0, label_map: Any = None, class_table: str | None = None) -> Compose:
    mapping = MapLabelValuesd("label", label_map, class_table, allow_missing_keys=True)
    return Compose([load_transform(), NormalizeIntensityd("image", divisor=factor), mapping])


def named(entry: dict[str, Any]) -> dict[str, Any]:
    """Two slices of the number that is the file's name."""
    return {"image": np.full((1, 4, 4, 2), int(Path(entry["image"]).stem))}


class TestKey:
    def test_same_for_the_same(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        a, b = SliceCache(tmp_path / "a", scaled()), SliceCache(tmp_path / "b", scaled())
        assert a.key(entries[0]) == b.key({**entries[0], "case": "another name"})
        assert a.key(entries[0]) != a.key(entries[1])

    def test_global_seed_does_not_matter(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        # a Compose takes a random state of the global seed; runs of several seeds share their slices all the same
        keys = set()
        try:
            for seed in (0, 1, None):
                set_determinism(seed=seed)
                keys.add(SliceCache(tmp_path, scaled()).key(entries[0]))
        finally:
            set_determinism(seed=None)
        assert len(keys) == 1

    def test_same_in_another_process(self, entries: list[dict[str, Any]], tmp_path: Path, bundle_root: Path) -> None:
        program = "from tests.data.test_cache import *; import sys, json; from pathlib import Path;"
        program += "print(SliceCache(Path(sys.argv[1]), scaled()).key(json.loads(sys.argv[2])))"
        line = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), json.dumps(entries[0])]
        done = subprocess.run(
            line, cwd=bundle_root, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "3"}
        )
        assert done.stdout.strip() == SliceCache(tmp_path, scaled()).key(entries[0])

    @pytest.mark.parametrize("name", ["image", "label"])
    @pytest.mark.parametrize("change", ["time", "size", "path", "content"])
    def test_changed_file(self, entries: list[dict[str, Any]], tmp_path: Path, name: str, change: str) -> None:
        slices, entry = cache(tmp_path), entries[0]
        before, file = slices.key(entry), Path(entry[name])
        if change == "time":
            os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
        elif change == "size":
            stat = file.stat()
            file.write_bytes(file.read_bytes() + b"x")
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif change == "content":  # of the same size, and with its time, as after `cp -p` or `rsync -t`
            stat, content = file.stat(), bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else:
            entry = {**entry, name: str(file.rename(tmp_path / "moved.nii.gz"))}
        assert slices.key(entry) != before

    def test_changed_file_of_a_series(self, tmp_path: Path) -> None:
        # the time of a folder does not change with what its files hold
        series = tmp_path / "series"
        series.mkdir()
        (series / "1.dcm").write_bytes(b"one")
        before = cache(tmp_path).key({"image": str(series)})
        stat = series.stat()
        (series / "1.dcm").write_bytes(b"other")
        os.utime(series, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert cache(tmp_path).key({"image": str(series)}) != before

    def test_changed_setting(self, entries: list[dict[str, Any]], tmp_path: Path, bundle_root: Path) -> None:
        table = tmp_path / "classes.json"
        table.write_text((bundle_root / "configs/classes.json").read_text(encoding="utf-8").replace("L5", "L5x"))
        others = [
            scaled(),
            scaled(2.0),
            scaled(label_map={"map": {"0": 0}}),
            scaled(class_table=str(table)),
            Compose([load_transform(), ScaleIntensityd("image")]),
        ]
        assert len({SliceCache(tmp_path, transform).key(entries[0]) for transform in others}) == len(others)

    def test_changed_label_map(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        file, slices, keys = tmp_path / "map.json", cache(tmp_path), set()
        for value in ("1", "2"):
            file.write_text(json.dumps({"map": {value: 1}}), encoding="utf-8")
            keys.add(slices.key({**entries[0], "label_map": str(file)}))
        for label_map in ("spider", "mrspineseg", {"map": {"0": 0}}, None):
            keys.add(slices.key({**entries[0], "label_map": label_map}))
        assert len(keys) == 6


class TestBuild:
    def test_equals_the_transform_to_float16(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        transform = scaled(0.37)
        folder = SliceCache(tmp_path / "cache", transform).build(entries[0])
        image, label, out = np.load(folder / "image.npy"), np.load(folder / "label.npy"), transform(entries[0])
        assert (image.dtype, label.dtype, image.shape) == (np.float16, np.uint8, (3, SIZE, SIZE))
        for number in range(3):
            expected = np.asarray(out["image"][0, :, :, number])
            np.testing.assert_allclose(image[number], expected, rtol=2**-11)
            np.testing.assert_array_equal(label[number], out["label"][0, :, :, number])

    def test_once(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        calls = []

        def transform(entry: Any) -> Any:
            calls.append(entry)
            return load_transform()(entry)

        slices = SliceCache(tmp_path / "cache", load_transform())
        slices.transform = transform
        assert slices.build(entries[0]) == slices.build(entries[0]) == slices.build_all(entries)[0]
        assert len(calls) == len(entries)

    def test_reads_nothing_but_image_and_label(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        seen = []

        def transform(entry: Any) -> Any:
            seen.append(set(entry))
            return load_transform()(entry)

        slices = SliceCache(tmp_path / "cache", load_transform())
        slices.transform = transform
        slices.build({**entries[0], "hidden_label": "never/read.nii.gz"})
        assert seen == [{"image", "label"}]

    def test_kill_leaves_nothing_that_is_used(
        self, entries: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slices, save = cache(tmp_path / "cache"), np.save

        def killed(file: Path, array: np.ndarray) -> None:
            if Path(file).name == "label.npy":
                raise KeyboardInterrupt  # the image is there, its label is not
            save(file, array)

        monkeypatch.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            slices.build(entries[0])
        assert not (slices.folder / slices.key(entries[0])).exists()
        monkeypatch.undo()
        folder = slices.build(entries[0])
        assert sorted(f.name for f in folder.iterdir()) == ["image.npy", "label.npy"]

    def test_two_processes(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        slow, quick = cache(tmp_path / "cache"), cache(tmp_path / "cache")

        def overtaken(entry: Any) -> Any:
            quick.build(entry)
            return load_transform()(entry)

        slow.transform = overtaken
        folder = slow.build(entries[0])
        assert list(slow.folder.iterdir()) == [folder]


class TestSliceDataset:
    def dataset(self, entries: list[dict[str, Any]], folder: Path) -> SliceDataset:
        return SliceDataset(entries, cache(folder / "cache"), CLASSES)

    def test_items(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        entries[1]["unlabelled_classes"] = (1, 3)
        dataset = self.dataset(entries, tmp_path)
        assert len(dataset) == 3 + 2
        for index, (case, number) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
            item, out = dataset[index], load_transform()(entries[case])
            assert item["image"].shape == item["label"].shape == (1, SIZE, SIZE)
            assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
            torch.testing.assert_close(item["image"], out["image"][..., number].as_tensor(), rtol=2**-11, atol=0)
            assert torch.equal(item["label"].float(), out["label"][..., number].as_tensor().float())
            assert item["is_unlabelled"].tolist() == [False, case == 1, False, case == 1]
            assert "attention_maps" not in item

    @pytest.mark.parametrize("index", [-1, 5])
    def test_exception(self, entries: list[dict[str, Any]], tmp_path: Path, index: int) -> None:
        with pytest.raises(IndexError, match=str(index)):
            self.dataset(entries, tmp_path)[index]

    def test_nothing_happens_at_construction(self, tmp_path: Path) -> None:
        dataset = self.dataset([{"image": str(tmp_path / "not there.nii.gz")}], tmp_path)
        assert dataset.data[0]["image"].endswith("not there.nii.gz")
        assert not (tmp_path / "cache").exists()

    def test_no_volumes(self, tmp_path: Path) -> None:
        assert len(self.dataset([], tmp_path)) == 0

    def test_without_labels(self, tmp_path: Path) -> None:
        item = self.dataset(volumes(tmp_path / "data", labelled=False), tmp_path)[4]
        assert set(item) == {"image", "is_unlabelled", "index"}

    def test_items_are_copies(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        dataset = self.dataset(entries, tmp_path)
        before = dataset[0]["label"].clone()
        dataset[0]["label"].fill_(9)
        assert torch.equal(dataset[0]["label"], before)

    def test_few_maps_are_open(self, tmp_path: Path) -> None:
        entries = [{"image": str(tmp_path / f"{number}.nii")} for number in range(OPEN_ARRAYS + 20)]
        for entry in entries:
            Path(entry["image"]).touch()
        dataset = SliceDataset(entries, SliceCache(tmp_path / "cache", named), 20)
        for _ in range(2):
            assert [int(dataset[2 * case]["image"].max()) for case in range(len(entries))] == list(range(len(entries)))
        lines = Path("/proc/self/maps").read_text().splitlines()
        opened = {line.split()[-1] for line in lines if str(tmp_path) in line}
        assert 0 < len(opened) <= OPEN_ARRAYS

    def test_labelled_classes(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        entries[0]["unlabelled_classes"], entries[1]["unlabelled_classes"] = (1, 2), (2, 3)
        assert self.dataset(entries, tmp_path).labelled_classes() == [0, 1, 3]
        assert self.dataset([], tmp_path).labelled_classes() == list(range(CLASSES))


class TestVolumeDataset:
    def test_items(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        entries[1]["unlabelled_classes"] = (2,)
        slices, whole = cache(tmp_path / "cache"), VolumeDataset(entries, cache(tmp_path / "cache"), CLASSES)
        one_by_one = SliceDataset(entries, slices, CLASSES)
        assert len(whole) == 2
        item = whole[1]
        assert item["image"].shape == item["label"].shape == (2, 1, SIZE, SIZE)
        for number in range(2):
            assert torch.equal(item["image"][number], one_by_one[3 + number]["image"])
            assert torch.equal(item["label"][number], one_by_one[3 + number]["label"])
        assert item["is_unlabelled"].tolist() == [False, False, True, False]

    def test_ends(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        whole = VolumeDataset(entries, cache(tmp_path / "cache"), CLASSES)
        assert len(list(whole)) == 2  # a loop over it stops at the IndexError
        assert len(VolumeDataset([], cache(tmp_path / "cache"), CLASSES)) == 0


class TestJoinedSlices:
    def test_value(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        labelled = SliceDataset(entries, cache(tmp_path / "cache"), CLASSES)
        unlabelled = SliceDataset(volumes(tmp_path / "more", (4,), labelled=False), cache(tmp_path / "cache"), CLASSES)
        images = JoinedSlices([labelled, SliceDataset([], cache(tmp_path / "cache"), CLASSES), unlabelled])
        expected = [part[i]["image"] for part in (labelled, unlabelled) for i in range(len(part))]
        assert len(images) == len(expected) == 5 + 4
        for index, image in enumerate(expected):
            assert images[index].keys() == {"image"}
            assert torch.equal(images[index]["image"], image)

    def test_keys(self, entries: list[dict[str, Any]], tmp_path: Path) -> None:
        labelled = SliceDataset(entries, cache(tmp_path / "cache"), CLASSES)
        item = JoinedSlices([labelled], ["label", "is_unlabelled"])[4]
        assert item.keys() == {"label", "is_unlabelled"}
        assert torch.equal(item["label"], labelled[4]["label"])

    @pytest.mark.parametrize("index", [-1, 5])
    def test_exception(self, entries: list[dict[str, Any]], tmp_path: Path, index: int) -> None:
        images = JoinedSlices([SliceDataset(entries, cache(tmp_path / "cache"), CLASSES)])
        with pytest.raises(IndexError, match=str(index)):
            images[index]
