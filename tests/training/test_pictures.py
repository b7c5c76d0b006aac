from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import LoadImage
from torch import Tensor, nn

from scripts.data.attention_map_cache import PromptMaps
from scripts.data.output_folder import OutputFolder
from scripts.inference.inferers import VolumeInferer
from scripts.labels import ClassTable
from scripts.ops.batch_norm import batch_norm_statistics
from scripts.ops.prompt_map import average_slices, prompt_guided_map, upsample
from scripts.training import pictures
from scripts.training.pictures import CaseOverlays, RunPictures, canonical, draw_attention, draw_overlay, draw_targets
from tests.tiny import write_volume

TABLE = ClassTable.load()
N = TABLE.num_classes
VOLUME = {"image": torch.rand(3, 1, 16, 8), "label": torch.randint(0, 4, (3, 1, 16, 8), dtype=torch.uint8)}


def finished(handler: RunPictures) -> None:
    engine = Engine(lambda e, b: None)
    engine.state.device = torch.device("cpu")
    handler.attach(engine)
    engine.run([0], max_epochs=2)


def drawing(path: Path) -> np.ndarray:
    """The picture; it has to show more than one colour."""
    picture = matplotlib.image.imread(path)
    assert picture[..., :3].std() > 0.01
    return picture


class Channels(nn.Module):
    """Logits of which every pixel's largest is the class of its grey value."""

    def forward(self, image: Tensor) -> Tensor:
        return -(image - torch.linspace(0, 1, N).view(N, 1, 1)).abs()


class Patches(nn.Module):
    """Attention maps on a grid four times coarser."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, N, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return (5 * self.patches(image)).softmax(1)


class TestRunPictures:
    def test_first_volume_once(self, tmp_path: Path) -> None:
        drawn: list[tuple[Any, ...]] = []
        finished(RunPictures([VOLUME, None], [lambda *args: drawn.append(args)], tmp_path / "new"))
        assert len(drawn) == 1
        image, label, folder = drawn[0]
        assert torch.equal(image, VOLUME["image"])
        assert torch.equal(label, VOLUME["label"][:, 0])
        assert folder.is_dir()

    def test_no_volumes(self, tmp_path: Path) -> None:
        finished(RunPictures([], [lambda *args: pytest.fail("nothing to draw")], tmp_path / "new"))
        assert not (tmp_path / "new").exists()

    def test_what_cannot_be_drawn_stops_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*args: Any) -> None:
            raise RuntimeError("no fonts")

        drawn: list[Any] = []
        finished(RunPictures([VOLUME], [fail, lambda *args: drawn.append(args)], tmp_path))
        assert len(drawn) == 1  # the next one is drawn
        assert "the pictures could not be drawn" in caplog.text
        assert "no fonts" in caplog.text

    def test_a_full_disk_is_told_in_a_sentence(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "overlay.png")

        finished(RunPictures([VOLUME], [fail], tmp_path))
        assert "the pictures could not be drawn: " in caplog.text
        assert "disk is full" in caplog.text
        assert "Traceback" not in caplog.text

    def test_without_gradients(self, tmp_path: Path) -> None:
        grad: list[bool] = []
        finished(RunPictures([VOLUME], [lambda *args: grad.append(torch.is_grad_enabled())], tmp_path))
        assert grad == [False]

    def test_the_first_kind_after_each_validation(self, tmp_path: Path) -> None:
        shown: list[tuple[str, int]] = []

        def draw(image: Tensor, label: Tensor, folder: Path) -> None:
            (folder / "overlay.png").write_bytes(b"")

        trainer, evaluator = Engine(lambda e, b: None), Engine(lambda e, b: None)
        trainer.state.device = torch.device("cpu")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: evaluator.run([0]))
        pictures = RunPictures(
            [VOLUME],
            [draw, lambda image, label, folder: (folder / "targets.png").write_bytes(b"")],
            tmp_path,
            lambda path, epoch: shown.append((str(path.relative_to(tmp_path)), epoch)),
        )
        pictures.attach(trainer, evaluator)
        trainer.run([0], max_epochs=4)
        assert shown == [("epochs/0002/overlay.png", 2), ("epochs/0004/overlay.png", 4)]
        assert {path.name for path in tmp_path.glob("*.png")} == {"overlay.png", "targets.png"}


class TestDraw:
    def test_overlay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[np.ndarray] = []
        real = pictures.overlay_volume
        monkeypatch.setattr(pictures, "overlay_volume", lambda *a, **k: (seen.extend(a[:3]), real(*a, **k))[1])
        draw_overlay(
            VOLUME["image"], VOLUME["label"][:, 0], tmp_path, network=Channels().train(), table=TABLE,
            labelled=range(N), statistics="running",
        )  # fmt: skip
        drawing(tmp_path / "overlay.png")
        image, label, pred = seen
        assert image.shape == label.shape == pred.shape == (16, 8, 3)
        np.testing.assert_array_equal(label, VOLUME["label"][:, 0].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(pred, (image * (N - 1)).round())

    @pytest.mark.parametrize("statistics", ["running", "volume"])
    def test_overlay_has_the_statistics_of_validation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: str
    ) -> None:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(pictures, "overlay_volume", lambda image, label, pred, *args, **options: seen.append(pred))
        torch.manual_seed(0)
        network = nn.Sequential(nn.BatchNorm2d(1), Channels()).train()
        network[0].running_mean.fill_(-1.0)
        given: Any = {"network": network, "table": TABLE, "labelled": range(N)}
        draw_overlay(VOLUME["image"], VOLUME["label"][:, 0], tmp_path, **given, statistics=statistics)
        logits = VolumeInferer(statistics=statistics)(VOLUME["image"], network.eval())
        np.testing.assert_array_equal(seen[0], logits.argmax(1).permute(1, 2, 0).numpy())
        assert network[0].running_mean.tolist() == [-1.0]

    def test_a_class_that_nobody_labelled_is_background(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(pictures, "overlay_volume", lambda image, label, pred, *args, **options: seen.append(pred))
        monkeypatch.setattr(pictures, "prompt_map_panel", lambda *arrays, **options: seen.append(arrays[2]))
        image, label = VOLUME["image"], VOLUME["label"][:, 0]
        expected = Channels()(image).argmax(1)
        assert (expected == 1).any()  # as a network may say of air
        expected = expected.where(expected != 1, 0).permute(1, 2, 0).numpy()
        labelled = [c for c in range(N) if c != 1]
        draw_overlay(image, label, tmp_path, network=Channels(), table=TABLE, labelled=labelled, statistics="volume")
        np.testing.assert_array_equal(seen[0], expected)
        maps = PromptMaps(tmp_path, lambda folder: Patches().requires_grad_(False), tmp_path)
        maps._folders = {"image": tmp_path}
        draw_targets(
            image, label, tmp_path, prompt_maps=maps, prompt_map=partial(prompt_guided_map, gate=0.0),
            teacher=Channels(), table=TABLE, labelled=labelled,
        )  # fmt: skip
        assert any(np.array_equal(seen[1], expected[..., s]) for s in range(3))

    @pytest.mark.parametrize("neighbours", [0, 1])
    def test_attention(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neighbours: int) -> None:
        """The maps of validation, of the trained classes."""
        seen: dict[str, Any] = {}
        real = pictures.attention_panel

        def panel(image: Any, maps: Any, *args: Any, **options: Any) -> Any:
            seen.update(image=image, maps=maps, **options)
            return real(image, maps, *args, **options)

        monkeypatch.setattr(pictures, "attention_panel", panel)
        image, label = VOLUME["image"], VOLUME["label"][:, 0]
        model = nn.Sequential(nn.BatchNorm2d(1), Patches()).requires_grad_(False)
        draw_attention(
            image, label, tmp_path, model=model, table=TABLE, labelled=[2, 4, 3], statistics="volume",
            neighbours=neighbours,
        )  # fmt: skip
        drawing(tmp_path / "attention.png")
        assert seen["classes"] == [0, 2, 3, 4]
        with batch_norm_statistics(model.eval(), "volume"):
            maps = upsample(average_slices(model(image), neighbours), image.shape[-2:])
        chosen = next(s for s in range(3) if np.array_equal(seen["image"], image[s, 0].numpy()))
        np.testing.assert_allclose(seen["maps"], maps[chosen].numpy(), atol=1e-6)

    def test_targets_without_prompts(self, tmp_path: Path) -> None:
        given: Any = {"prompt_maps": None, "prompt_map": prompt_guided_map, "teacher": Channels(), "table": TABLE}
        given["labelled"] = range(N)
        draw_targets(VOLUME["image"], VOLUME["label"][:, 0], tmp_path, **given)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("built", [True, False])
    def test_targets(self, tmp_path: Path, built: bool) -> None:
        maps = PromptMaps(tmp_path, lambda folder: Patches().requires_grad_(False), tmp_path)
        maps._folders = {"image": tmp_path} if built else {}
        draw_targets(
            VOLUME["image"],
            VOLUME["label"][:, 0],
            tmp_path,
            prompt_maps=maps,
            prompt_map=partial(prompt_guided_map, gate=0.0),
            teacher=Channels(),
            table=TABLE,
            labelled=range(N),
        )
        assert sorted(f.name for f in tmp_path.glob("*.png")) == ["attention.png", "targets.png"] * built
        if built:
            drawing(tmp_path / "targets.png")


class TestCanonical:
    @pytest.mark.parametrize("axes", ["RAS", "PIR", "LSA", "IPR"])
    def test_value(self, axes: str) -> None:
        """The first axis runs down, the second back, whatever the scan's axes."""
        shape = (4, 5, 6)
        affine = np.zeros((4, 4))
        world = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
        for axis, letter in enumerate(axes):
            row, sign = world[letter]
            affine[row, axis] = sign
        affine[3, 3] = 1
        places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) @ affine[:3, :3].T
        for coordinate, axis in ((2, 0), (1, 1)):  # superior falls along H, anterior along W
            volume = MetaTensor(torch.tensor(places[..., coordinate])[None], affine=torch.tensor(affine))
            out = canonical(volume)[0]
            assert (out.diff(dim=axis) == -1).all()

    def test_single_slice(self, tmp_path: Path) -> None:
        affine = np.array([[0, 0, 4.0, -10], [-2.4, 0, 0, 20], [0, -2.4, 0, 30], [0, 0, 0, 1]])  # PIR
        file = write_volume(tmp_path / "s.nii.gz", np.arange(30.0).reshape(5, 6), affine)
        out = canonical(LoadImage(ensure_channel_first=True, image_only=True)(file))
        assert out.shape == (1, 6, 5, 1)
        np.testing.assert_array_equal(out[0, :, :, 0], np.arange(30.0).reshape(5, 6).T)


class TestCaseOverlays:
    def output(self, folder: Path, name: str, labelled: bool) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        file = write_volume(folder / name, rng.random((3, 12, 16)), np.diag([4.0, 0.8, 0.8, 1]))
        pred = MetaTensor(torch.randint(0, 4, (1, 3, 12, 16)), affine=torch.diag(torch.tensor([4.0, 0.8, 0.8, 1])))
        pred.meta["filename_or_obj"] = file
        return {"pred": pred, "label": pred.clone()} if labelled else {"pred": pred}

    def test_every_case(self, tmp_path: Path) -> None:
        outputs = [self.output(tmp_path, "a.v1.nii.gz", True), self.output(tmp_path, "b.nii", False)]
        engine = Engine(lambda e, batch: [batch[0]])
        CaseOverlays(OutputFolder(tmp_path / "new"), TABLE, count=2).attach(engine)
        engine.run([[output] for output in outputs])
        assert sorted(f.name for f in (tmp_path / "new/pictures").iterdir()) == ["a.v1.png", "b.png"]
        for name in ("a.v1.png", "b.png"):
            drawing(tmp_path / "new/pictures" / name)

    def test_grid_of_the_scan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = SimpleNamespace()

        def keep(image: Any, label: Any, pred: Any, table: Any, path: Path, **options: Any) -> None:
            path.touch()
            seen.__dict__.update(image=image, label=label, pred=pred, **options)

        monkeypatch.setattr(pictures, "overlay_volume", keep)
        output = self.output(tmp_path, "a.nii", True)
        CaseOverlays(OutputFolder(tmp_path), TABLE, count=9).draw({}, output)
        assert seen.image.shape == seen.label.shape == seen.pred.shape == (16, 12, 3)
        assert seen.spacing == pytest.approx([0.8, 0.8])
        assert seen.count == 3
        # RAS: down is against the last axis, back is against the second, slices run to the right as they did
        np.testing.assert_array_equal(seen.pred, output["pred"][0].numpy()[:, ::-1, ::-1].transpose(2, 1, 0))
