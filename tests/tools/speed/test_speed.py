from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.data.cache import MAPS
from scripts.phantom.write import write_phantoms
from scripts.tools.speed import field_trainer, inference, maps, memory, speed, training
from scripts.tools.speed.inference import Setting
from scripts.tools.speed.pairs import Goal
from scripts.tools.speed.training import WARM_UP, Sizes, TakingTurns

TINY = {"image_size": [32, 16], "channels": [4, 8], "batch_size": 2, "unlabelled_batch_size": 3}
ROW = {"name", "ratio", "low", "high", "goal", "met", "reference", "pairs"}
MEASURED = {
    "name": "a",
    "ratio": 1.25,
    "low": 1.0,
    "high": 1.5,
    "goal": 1.1,
    "met": False,
    "reference": "b",
    "pairs": 20,
}


def parse(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    return parser.parse_args(line)


@pytest.fixture
def sizes(tmp_path: Path) -> Sizes:
    return Sizes((), TINY, tmp_path)


@pytest.fixture
def setting() -> Setting:
    network = {"image_size": [32, 16], "pixel_mm": 8.0, "channels": [4, 8]}
    return Setting((40, 32), 7.0, model=None, steps=2, overrides=network)


@pytest.fixture
def report() -> dict[str, Any]:
    rows = [{**MEASURED, "ours_ms": 50.0, "reference_ms": 40.0, "profile": {"a_ms": 3.0}}, thresholds_without_gpu()]
    reported = {**MEASURED, "goal": None, "met": None, "ours_MB": 5.0, "reference_MB": 4.0}
    conditions = speed.conditions(parse())
    return {"rows": [*rows, reported], "conditions": {"engine": conditions, "otsu": conditions}}


def thresholds_without_gpu() -> dict[str, Any]:
    return {"name": "c", "ratio": None, "goal": 1.0, "met": None, "reference": "d", "pairs": 0, "reason": "no GPU"}


class TestSizes:
    def test_same_seed_same_weights(self, sizes: Sizes) -> None:
        first, second = sizes.graph(), sizes.graph("methods/mean_teacher.yaml")
        for name in ("network", "teacher"):
            ours, theirs = (graph.get_parsed_content(name).state_dict() for graph in (first, second))
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert first.get_parsed_content("ramp")(0.0) == 1.0
        assert first.get_parsed_content("network") is not second.get_parsed_content("network")


class TestDrawnBatch:
    def test_shape(self, sizes: Sizes) -> None:
        batch = training.drawn_batch(sizes.graph())
        assert batch["labelled"]["image"].shape == batch["labelled"]["label"].shape == (2, 1, 32, 16)
        maps = batch["unlabelled"]["attention_maps"]
        assert maps.shape == (3, 20, 8, 4)
        torch.testing.assert_close(maps.sum(1), torch.ones(3, 8, 4))
        assert batch["unlabelled"]["thresholds"].shape == (3, 20)
        assert "label" not in batch["unlabelled"]


class TestTakingTurns:
    def test_order_and_sides(self) -> None:
        order: list[str] = []

        def reference() -> float:
            order.append("reference")
            time.sleep(0.02)
            return 3.0

        feed = TakingTurns({"a": {}}, reference, "cpu")
        for number, batch in enumerate(feed):
            assert batch == {"a": {}}
            if number == 2:
                break
            order.append("engine")
        assert order == ["reference", "engine", "reference", "engine", "reference"]
        assert len(feed.times) == 2  # nobody asked after the third
        assert feed.losses == [3.0, 3.0]
        assert all(engine < 0.02 <= theirs for engine, theirs in feed.times)


class TestEngineRow:
    def test_smoke(self, sizes: Sizes) -> None:
        row = training.engine_row(sizes, pairs=4)
        assert row.keys() >= ROW
        assert row["pairs"] == 4
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["image_size"] == [32, 16]

    def test_both_compute_the_same(self, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
        bare = training.bare_step

        def other_losses(parser: Any) -> Callable[[Any], Tensor]:
            step = bare(parser)
            return lambda batch: step(batch) + 1

        monkeypatch.setattr(training, "bare_step", other_losses)
        with pytest.raises(RuntimeError, match="the engine's second loss must be that of the loop"):
            training.engine_row(sizes, pairs=1)


class TestMethodRows:
    def test_smoke(self, sizes: Sizes) -> None:
        rows = list(training.method_rows(sizes, pairs=3))
        assert all(row.keys() >= ROW and row["ratio"] > 0 for row in rows)
        assert [row["goal"] for row in rows] == [1.05, 1.05, None]

    def test_who_gets_the_maps(self, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[set[str]] = []

        def recording(parser: Any) -> Callable[[Any], None]:
            return lambda batch: seen.append(set(batch["unlabelled"]))

        monkeypatch.setattr(training, "bare_step", recording)
        kept, fused, _ = training.method_rows(sizes, pairs=1)
        assert kept["pairs"] == fused["pairs"] == 1
        plain, each = {"image", "is_unlabelled"}, 2 * (WARM_UP + 1)
        assert seen[:each] == [plain | {"pseudo_label"}, plain] * (WARM_UP + 1)
        assert seen[each : 2 * each] == [plain | set(MAPS), plain] * (WARM_UP + 1)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_gpu(self, sizes: Sizes) -> None:
        rows = [
            *training.method_rows(replace(sizes, device="cuda"), pairs=3),
            training.engine_row(replace(sizes, device="cuda"), pairs=3),
            training.stage1_row(replace(sizes, device="cuda"), pairs=3),
            maps.guided_row("cuda", slices=1, side=64, pairs=3, seed=0),
        ]
        assert all(row["met"] is None and "GPU" in row["name"] and "CUDA" in row["reason"] for row in rows)
        assert [rows[n]["goal"] for n in (4, 5)] == [pytest.approx(1 / 1.5), 1 / 20]


class TestStage1Row:
    def test_smoke(self, sizes: Sizes) -> None:
        """The bare loop computes what the objective does, which `through_engine` checks."""
        row = training.stage1_row(sizes, pairs=2)
        assert row["pairs"] == 2
        assert "unlabelled_batch_size" not in row


class TestFieldRows:
    def test_smoke(self, sizes: Sizes, tmp_path: Path) -> None:
        trained, cut, waited = field_trainer.field_rows(sizes, tmp_path, 2, (40, 32), 7.0)
        assert cut["pairs"] == 2
        assert trained["ours_slices_per_s"] > trained["reference_slices_per_s"]
        assert 0 < waited["ratio"] < 1
        assert waited["reference_ms"] == trained["ours_ms"]


class TestCutSlices:
    def test_items(self, sizes: Sizes, tmp_path: Path) -> None:
        """Of the slices that were cut: unturned ones are equal to them, turned ones have no other values."""
        datalist = write_phantoms(
            tmp_path / "scans", labelled=1, unlabelled=0, validation=0, test=0, shape_hw=(40, 32), pixel_mm=7.0
        )
        place = {"datalist": str(datalist), "cache_dir": str(tmp_path / "cache")}
        slices = sizes.graph("methods/supervised.yaml", **place).get_parsed_content("train#dataset")
        cut = field_trainer.CutSlices(slices, tmp_path / "cut")
        assert len(cut) == len(slices)
        same = []
        for number in range(len(slices)):
            given, read = slices[number], cut[number]
            assert read["image"].shape == read["label"].shape == (1, 32, 16)
            assert set(read["label"].unique().tolist()) <= {*given["label"].unique().tolist(), 0}
            same.append(torch.equal(given["image"], read["image"]) and torch.equal(given["label"], read["label"]))
        assert 0 < sum(same) < len(same)


class TestGuidedRow:
    def test_twin(self) -> None:
        attention = (3 * torch.randn(2, 20, 6, 6, generator=torch.Generator().manual_seed(0))).softmax(1)
        ours, theirs = maps.at_once(attention, 48), maps.class_by_class(attention.numpy(), 48)
        assert (ours.numpy() == theirs).mean() > 0.999
        assert ours.unique().numel() > 10

    def test_smoke(self) -> None:
        row = maps.guided_row("cpu", slices=1, side=64, pairs=2, seed=0)
        assert (row["goal"], row["pairs"], row["maps"]) == (0.5, 2, [20, 8, 8])

    def test_different_maps_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(maps, "class_by_class", lambda attention, side: 0 * attention[:, 0, :1, :1])
        with pytest.raises(RuntimeError, match="the two must give the same maps"):
            maps.guided_row("cpu", slices=1, side=64, pairs=1, seed=0)


class TestInferenceRows:
    def test_smoke(self, sizes: Sizes, setting: Setting, tmp_path: Path) -> None:
        whole, decoded, decoding = inference.inference_rows(sizes, setting, tmp_path, pairs=2)
        assert whole["labels_differ"] < 1e-4
        assert whole["profile"]["network_ms"] > 0
        assert (decoded["goal"], decoding["goal"]) == (None, 0.1)
        assert "40x32" in whole["name"]

    def test_other_labels_are_refused(
        self, sizes: Sizes, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        label = inference.PlainLabelling.label
        monkeypatch.setattr(inference.PlainLabelling, "label", lambda self: label(self) + 1)
        with pytest.raises(RuntimeError, match="the two must give the same labels"):
            next(inference.inference_rows(sizes, setting, tmp_path, pairs=1))


class TestOtsuRows:
    def test_smoke(self) -> None:
        threads = torch.get_num_threads()
        cpu, gpu = maps.otsu_rows(4, [24], pairs=2, seed=0)
        assert cpu["ratio"] > 0
        assert (gpu["met"] is None) != torch.cuda.is_available()
        assert torch.get_num_threads() == threads

    def test_wrong_thresholds_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(maps, "otsu_thresholds", lambda smooth: smooth.mean((1, 2)))
        with pytest.raises(RuntimeError, match="the thresholds must be those of scikit-image"):
            next(maps.otsu_rows(2, [24], pairs=1, seed=0))


class TestMemoryRow:
    def test_value(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which run is which, without the runs."""

        def peak(datalist: Path, folder: Path, steps: int, seed: int) -> float:
            return 100.0 + len(json.loads(datalist.read_text(encoding="utf-8"))["unlabelled"])

        monkeypatch.setattr(memory, "peak_of_run", peak)
        row = memory.memory_row(tmp_path, (3, 6), pairs=2, steps=5, seed=0, shape_hw=(24, 24), pixel_mm=12.0)
        assert (row["ours_MB"], row["reference_MB"], row["pairs"], row["steps"]) == (104.0, 101.0, 2, 5)
        assert row["ratio"] == pytest.approx(104 / 101, abs=1e-4)

    def test_peak_remembers(self) -> None:
        before = memory.peak_mb()
        block = torch.ones(int(before * 2**20), dtype=torch.uint8)
        assert memory.peak_mb() > 1.2 * before
        del block
        assert memory.peak_mb() > 1.2 * before

    @pytest.mark.slow
    def test_smoke(self, tmp_path: Path) -> None:
        row = memory.memory_row(tmp_path, (3, 4), pairs=1, steps=2, seed=0, shape_hw=(40, 32), pixel_mm=7.0)
        assert row["ratio"] == pytest.approx(1, abs=0.2)
        assert (tmp_path / "run/models/model.pt").is_file()


class TestRun:
    def test_smoke(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "results/speed.json"
        sizes = ["image_size=[32,16]", "channels=[4,8]", "batch_size=2", "unlabelled_batch_size=2"]
        threads = torch.get_num_threads()
        args = parse("--parts", "engine", "--pairs", "2", "--overlays", "--set", *sizes, "--out", str(out))
        assert speed.run(args) == 0
        assert torch.get_num_threads() == threads
        report = json.loads(out.read_text(encoding="utf-8"))
        row = report["rows"][0]
        assert row.keys() >= ROW
        assert row["channels"] == [4, 8]
        assert {"machine", "torch", "threads", "date", "seed"} <= report["conditions"]["engine"].keys()
        assert f"{row['ratio']:.3f}" in capsys.readouterr().out
        assert f"{row['ratio']:.3f}" in out.with_suffix(".md").read_text(encoding="utf-8")

    def test_every_part_has_its_measurement(self, tmp_path: Path) -> None:
        assert list(speed.kinds(parse(), tmp_path)) == list(speed.PARTS)

    def test_rows_of_other_parts_stay(self, tmp_path: Path) -> None:
        out, row, conditions = tmp_path / "speed.json", Goal("a", 1.0, "b").row([(1.0, 2.0)]), speed.conditions(parse())
        speed.write(out, {"memory": [row], "otsu": [row], "no part any more": [row]}, {**conditions, "seed": 3})
        speed.write(out, {"engine": [row], "otsu": [{**row, "name": "c"}, row]}, conditions)
        report = json.loads(out.read_text(encoding="utf-8"))
        parts = [(row["part"], row["name"]) for row in report["rows"]]
        assert parts == [("engine", "a"), ("otsu", "c"), ("otsu", "a"), ("memory", "a")]
        assert {part: made["seed"] for part, made in report["conditions"].items()} == {
            "engine": 0,
            "otsu": 0,
            "memory": 3,
        }


class TestPage:
    def test_value(self, report: dict[str, Any]) -> None:
        lines = speed.page(report).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        assert cells[0] == list(speed.HEAD)
        assert cells[2] == ["a", "1.250", "1.000 to 1.500", "1.10", "no", "50.0 ms", "40.0 ms", "20", "b"]
        assert cells[3][1:] == ["–", "–", "1.00", "–", "–", "–", "0", "d (not measured: no GPU)"]
        assert cells[4][3:6] == ["–", "reported", "5.0 MB"]
        assert sum(line.startswith("engine, otsu: ") and torch.__version__ in line for line in lines) == 1
        assert "- a: a_ms 3.0" in lines
