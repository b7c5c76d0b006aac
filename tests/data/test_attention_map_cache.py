from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from scripts.data.attention_map_cache import PromptMaps, average_slices
from scripts.data.augmentation import BatchAugmentation, warp
from scripts.data.cache import SliceDataset
from scripts.ops.otsu import otsu_thresholds
from scripts.ops.prompt_map import prompt_guided_map, upsample
from tests.tiny import CLASSES, SIZE, cache, volumes

GUIDED = partial(prompt_guided_map, gate=0.05)


class PatchModel(nn.Module):
    """Attention maps (B, N, h, w) of patches of four pixels; weights are the checkpoint's."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, CLASSES, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return (4 * self.patches(image)).softmax(1)


def load(folder: str | Path) -> nn.Module:
    model = PatchModel().requires_grad_(False)
    model.load_state_dict(torch.load(Path(folder) / "model.pt", weights_only=True))
    return model


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    torch.save(PatchModel().state_dict(), folder / "model.pt")
    return folder


class Counting:
    """`load`, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: str | Path) -> nn.Module:
        self.calls += 1
        return load(folder)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "prompt")


def dataset_with(maps: PromptMaps, folder: Path) -> SliceDataset:
    return SliceDataset(volumes(folder / "data", (3, 2), labelled=False), cache(folder / "cache"), CLASSES, maps)


class TestLive:
    def test_value(self, model_dir: Path, tmp_path: Path) -> None:
        maps = PromptMaps(model_dir, load, tmp_path / "maps", batch_size=2)
        dataset = dataset_with(maps, tmp_path)
        image = dataset[1]["image"][None]
        assert maps.compute_online({"image": image}) is None  # nothing was built: no stage-1 checkpoint was asked for
        maps.build(dataset)
        live, thresholds = maps.compute_online({"image": image})  # type: ignore[misc]
        kept = dataset[1]
        torch.testing.assert_close(live[0], upsample(kept["attention_maps"][None], (SIZE, SIZE))[0], atol=1e-3, rtol=0)
        assert live.shape == (1, CLASSES, SIZE, SIZE)
        assert thresholds.shape == (1, CLASSES)

    def test_follows_the_augmented_slice(self, model_dir: Path, tmp_path: Path) -> None:
        maps = PromptMaps(model_dir, load, tmp_path / "maps")
        maps.build(dataset_with(maps, tmp_path))
        image = torch.randn(2, 1, SIZE, SIZE)
        first = maps.compute_online({"image": image})
        second = maps.compute_online({"image": image.flip(0)})
        torch.testing.assert_close(first[0], second[0].flip(0))  # type: ignore[index]


class TestPromptMaps:
    def test_value(self, model_dir: Path, tmp_path: Path) -> None:
        maps = PromptMaps(model_dir, load, tmp_path / "maps", batch_size=2)
        dataset = dataset_with(maps, tmp_path)
        assert not maps.available
        assert "attention_maps" not in dataset[0]
        maps.build(dataset)
        assert maps.available
        model = load(model_dir)
        for index in range(len(dataset)):
            item = dataset[index]
            expected = model(item["image"][None])
            assert item["attention_maps"].shape == (CLASSES, 4, 4)
            assert item["attention_maps"].dtype == item["thresholds"].dtype == torch.float32
            torch.testing.assert_close(item["attention_maps"], expected[0], rtol=2**-11, atol=1e-7)
            # the threshold is that of the map as it is kept, at full size
            full = upsample(item["attention_maps"][None], (SIZE, SIZE))
            torch.testing.assert_close(item["thresholds"], otsu_thresholds(full)[0])

    def test_computed_once(self, model_dir: Path, tmp_path: Path) -> None:
        loader = Counting()
        first = dataset_with(PromptMaps(model_dir, loader, tmp_path / "maps"), tmp_path)
        first.prompt_maps.build(first)
        again = SliceDataset(first.data, first.cache, CLASSES, PromptMaps(model_dir, loader, tmp_path / "maps"))
        again.prompt_maps.build(again)
        assert loader.calls == 1
        assert torch.equal(again[4]["attention_maps"], first[4]["attention_maps"])

    def test_another_checkpoint_has_its_own(self, model_dir: Path, tmp_path: Path) -> None:
        maps = PromptMaps(model_dir, load, tmp_path / "maps")
        dataset = dataset_with(maps, tmp_path)
        maps.build(dataset)
        before = dataset[0]["attention_maps"]
        write_checkpoint(model_dir, seed=1)
        maps.build(dataset)
        assert (dataset[0]["attention_maps"] - before).abs().max() > 0.01

    def test_whatever_changes_the_maps_has_its_own(self, model_dir: Path, tmp_path: Path) -> None:
        """And what does not, as the place of the checkpoint, finds them again."""

        def key(folder: Path = model_dir, load_model: Any = load, **options: Any) -> str:
            return PromptMaps(folder, load_model, tmp_path, **options)._key()

        others = [
            key(neighbours=1),
            key(neighbours=2),
            key(batch_size=7),  # batch statistics are of a batch
            key(amp=True),
            key(load_model=partial(load, statistics="volume")),
            key(load_model=partial(load, statistics="running")),
            key(load_model=partial(load, statistics="volume"), neighbours=1),
        ]
        assert len({key(), *others}) == 1 + len(others)
        copied = Path(shutil.copytree(model_dir, tmp_path / "copied"))
        assert key() == key(folder=copied) == key(amp=False, neighbours=0, batch_size=32)
        assert key(load_model=partial(load, statistics="volume")) == key(load_model=partial(load, statistics="volume"))

    def test_half_precision_of_a_gpu_has_its_own(self, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = []
        for capability in ((7, 0), (8, 0)):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
            keys += [PromptMaps(model_dir, load, ".", device="cuda", amp=amp)._key() for amp in (True, False)]
        assert len(set(keys)) == 3

    def test_mixed_precision(self, model_dir: Path, tmp_path: Path) -> None:
        seen: list[torch.dtype] = []
        model = load(model_dir)
        model.patches.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
        image = torch.randn(2, 1, SIZE, SIZE)
        found = [PromptMaps(model_dir, load, tmp_path, amp=amp).compute(model, image)[0] for amp in (True, False)]
        assert seen == [torch.bfloat16, torch.float32]
        assert found[0].dtype == torch.float32
        torch.testing.assert_close(found[0], found[1], atol=0.05, rtol=0)

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        maps = PromptMaps(tmp_path / "nowhere", load, tmp_path / "maps")
        with pytest.raises(FileNotFoundError, match=r"nowhere/model.pt"):
            maps.build(dataset_with(maps, tmp_path))

    def test_kill_leaves_nothing_that_is_used(
        self, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maps = PromptMaps(model_dir, load, tmp_path / "maps")
        dataset = dataset_with(maps, tmp_path).prepare()
        save = np.save

        def killed(file: Path, array: np.ndarray) -> None:
            if Path(file).name == "thresholds.npy":
                raise KeyboardInterrupt
            save(file, array)

        monkeypatch.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            maps.build(dataset)
        monkeypatch.undo()
        again = PromptMaps(model_dir, load, tmp_path / "maps")
        dataset.prompt_maps = again
        again.build(dataset)
        assert all(set(dataset[i]) >= {"attention_maps", "thresholds"} for i in range(len(dataset)))

    def test_neighbours(self, model_dir: Path, tmp_path: Path) -> None:
        image, model = torch.randn(4, 1, SIZE, SIZE), load(model_dir)
        alone, _ = PromptMaps(model_dir, load, tmp_path, neighbours=0).compute(model, image)
        joined, _ = PromptMaps(model_dir, load, tmp_path, neighbours=1).compute(model, image)
        torch.testing.assert_close(joined[1], alone[:3].mean(0), atol=1e-3, rtol=0)
        torch.testing.assert_close(joined[3], (alone[2] + 2 * alone[3]) / 3, atol=1e-3, rtol=0)


class TestAverageSlices:
    @pytest.mark.parametrize("neighbours", [0, 1, 2])
    def test_twin(self, neighbours: int) -> None:
        maps = torch.rand(5, 2, 3, 3)
        out = average_slices(maps, neighbours)
        for number in range(5):
            near = [min(max(number + d, 0), 4) for d in range(-neighbours, neighbours + 1)]
            torch.testing.assert_close(out[number], torch.stack([maps[i] for i in near]).mean(0))

    def test_single_slice(self) -> None:
        maps = torch.rand(1, 2, 3, 3)
        torch.testing.assert_close(average_slices(maps, 2), maps)


class TestUnderAugmentation:
    """Maps that were kept and then warped, against maps that are computed during training."""

    def batch(self, model_dir: Path, folder: Path) -> tuple[dict[str, Any], Tensor, nn.Module]:
        """The augmented batch of all slices, the grid that it was warped with, and the stage-1 model."""
        maps = PromptMaps(model_dir, load, folder / "maps")
        dataset = dataset_with(maps, folder)
        maps.build(dataset)
        items = [dataset[i] for i in range(len(dataset))]
        self.plain = default_collate(items)
        augment = BatchAugmentation(seed=2)
        generator = torch.Generator().manual_seed(2 * 1_000_003 + 5)
        grid = augment.grid(len(items), (SIZE, SIZE), generator)
        return augment({"unlabelled": dict(self.plain)}, 5)["unlabelled"], grid, load(model_dir)

    def test_equal_to_maps_of_the_slice_as_it_is(self, model_dir: Path, tmp_path: Path) -> None:
        made, grid, model = self.batch(model_dir, tmp_path)
        computed = model(self.plain["image"])
        online = warp(computed, grid)
        assert not torch.allclose(online, upsample(computed, (SIZE, SIZE)), atol=0.05)  # the warp moves something
        torch.testing.assert_close(made["attention_maps"], online, rtol=2**-11, atol=1e-6)
        thresholds = otsu_thresholds(upsample(computed, (SIZE, SIZE)))
        torch.testing.assert_close(made["thresholds"], thresholds, rtol=0, atol=5e-3)  # a bin is at most 1 / 256
        kept, fresh = GUIDED(made["attention_maps"], made["thresholds"]), GUIDED(online, made["thresholds"])
        assert len(kept.unique()) > 1
        assert (kept == fresh).float().mean() > 0.995  # float16 may move a pixel that lies on a threshold

    def test_same_prompt_guided_map(self, model_dir: Path, tmp_path: Path) -> None:
        """Computed with the precision that is kept, the prompt-guided map is the same to the last pixel."""
        made, grid, model = self.batch(model_dir, tmp_path)
        maps, thresholds = PromptMaps(model_dir, load, tmp_path / "other").compute(model, self.plain["image"][:3])
        assert torch.equal(
            GUIDED(warp(maps, grid[:3]), thresholds), GUIDED(made["attention_maps"][:3], made["thresholds"][:3])
        )

    def test_difference_to_maps_of_the_augmented_slice(self, model_dir: Path, tmp_path: Path) -> None:
        """What is given up by not running the encoder in training; the number depends on the model, so none is due."""
        made, _, model = self.batch(model_dir, tmp_path)
        online = upsample(model(made["image"]), (SIZE, SIZE))
        difference = (online - made["attention_maps"]).abs()
        guided = GUIDED(online, otsu_thresholds(online)) == GUIDED(made["attention_maps"], made["thresholds"])
        share = float(guided.float().mean())
        print(f"\nmaps of the augmented slice: mean |difference| {difference.mean():.4f}, same pixels {share:.3f}")
        assert difference.isfinite().all()
