from __future__ import annotations

import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.evaluation.cases import CaseScores
from scripts.evaluation.score_handlers import ScoreWriter, VolumeScoresHandler, case_name, class_ids, spacing_of
from scripts.labels import ClassTable

TABLE = ClassTable.load()
L5, L4, SACRUM = 2, 3, 1
KEYS = {
    *("mdice", "miou", "n_cases", "per_class", "groups", "level_agnostic_dice", "wrong_level", "missed", "spurious"),
    *("levels_right", "levels_right_interval", "mdice_levels_right", "mdice_levels_wrong"),
}


def spine(*ids: int) -> np.ndarray:
    """A stack of blocks with the given labels, (8 * ids, 8, 2)."""
    return np.repeat(np.array(ids, dtype=np.uint8), 8)[:, None, None] * np.ones((1, 8, 2), dtype=np.uint8)


@pytest.fixture
def scores() -> CaseScores:
    """Case a: L5 right, L4 called L3. Case b: all right, one class only."""
    found = CaseScores(TABLE)
    found.add("a", spine(L5, 0, 4), spine(L5, 0, L4), (1, 1, 3))
    found.add("b", spine(L5, 0, 0), spine(L5, 0, 0), (1, 1, 3))
    return found


class TestCaseScores:
    def test_summary_has_the_agreed_keys(self, scores):
        assert set(scores.summary()) == KEYS

    def test_value(self, scores):
        summary = scores.summary()
        assert summary["n_cases"] == 2
        assert summary["mdice"] == pytest.approx((1 / 3 + 1) / 2)  # over classes first, then over cases
        assert (summary["wrong_level"], summary["missed"], summary["spurious"]) == (1, 1, 1)
        assert summary["per_class"]["L5"]["n"] == 2
        assert summary["per_class"]["L4"]["wrong_level"] == 1
        assert summary["groups"]["vertebra"]["dice"] == summary["mdice"]
        assert summary["level_agnostic_dice"]["vertebra"] == 1.0
        assert math.isnan(summary["level_agnostic_dice"]["disc"])

    def test_iou_is_no_dice_and_n_counts_cases_that_show_the_class(self, scores):
        scores.add("c", spine(L5, L5, 0), spine(L5, 0, 0), (1, 1, 3))  # Dice 2 · 8 / (16 + 8), IoU 8 / 16
        summary = scores.summary()
        assert summary["mdice"] == pytest.approx((1 / 3 + 1 + 2 / 3) / 3)
        assert summary["miou"] == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)
        assert [summary["per_class"][name]["n"] for name in ("L5", "L4", "L3", "L2")] == [3, 1, 1, 0]

    def test_levels_right(self, scores):
        """Case a has L4 under another name, case b is right, case c is right by half a vertebra and a pixel."""
        truth, pred = spine(L5), spine(L5)
        pred[: 5 * 8 // 8] = 0  # 3 of 8 rows are left: Dice 6 / 11
        scores.add("c", pred, truth, (1, 1, 3))
        summary = scores.summary()
        assert summary["levels_right"] == pytest.approx(2 / 3)
        assert summary["levels_right_interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)  # Wilson, by hand
        assert summary["mdice_levels_right"] == pytest.approx((1 + 6 / 11) / 2)
        assert summary["mdice_levels_wrong"] == pytest.approx(1 / 3)

    def test_levels_right_at_half_and_without_lumbar_vertebrae(self):
        found, half = CaseScores(TABLE), spine(L5)
        half[4:] = 0
        found.add("a", half, spine(L5), (1, 1, 3))  # Dice 2 / 3
        half[2:] = 0
        found.add("b", half, spine(L5), (1, 1, 3))  # Dice 0.4
        found.add("c", spine(0), spine(SACRUM), (1, 1, 3))  # no vertebra from L5 to L1: not judged
        assert found.summary()["levels_right"] == 0.5
        none = CaseScores(TABLE)
        none.add("c", spine(SACRUM), spine(SACRUM), (1, 1, 3))
        summary = none.summary()
        assert math.isnan(summary["levels_right"])
        assert all(map(math.isnan, summary["levels_right_interval"]))

    def test_files(self, scores, tmp_path):
        path = scores.write(tmp_path / "new")
        summary = json.loads(path.read_text(encoding="utf-8"))
        assert summary["groups"]["disc"]["dice"] is None  # NaN is no JSON
        assert "NaN" not in path.read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8").startswith('{\n "')  # a line a value, for people
        lines = (tmp_path / "new" / "per_case.csv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "case,class_id,class,dice,iou,hd95_mm,assd_mm"
        rows = pd.read_csv(tmp_path / "new" / "per_case.csv")
        assert len(rows) == 2 * 19
        assert rows.groupby("case")["dice"].mean().mean() == pytest.approx(summary["mdice"])
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["per_case.csv", "summary.json"]

    def test_unlabelled_classes_enter_no_score(self, tmp_path):
        scores = CaseScores(TABLE)
        scores.add("a", spine(SACRUM, L5), spine(0, L5), (1, 1, 1), unlabelled_classes=(SACRUM,))
        summary = scores.summary()
        assert (summary["mdice"], summary["spurious"]) == (1.0, 0)
        assert summary["per_class"]["S"]["n"] == 0

    def test_another_variant_stands_beside(self, scores, tmp_path):
        for case in ("a", "b"):
            scores.add(case, spine(L5, 0, L4), spine(L5, 0, L4), (1, 1, 3), variant="decoded")
        summary = json.loads(scores.write(tmp_path).read_text(encoding="utf-8"))
        assert set(summary) == KEYS | {"decoded"}
        assert set(summary["decoded"]) == KEYS
        assert summary["decoded"]["mdice"] == 1.0 > summary["mdice"]
        assert (tmp_path / "per_case_decoded.csv").is_file()

    def test_exception(self, scores, tmp_path):
        with pytest.raises(ValueError, match="case a was scored twice"):
            scores.add("a", spine(0), spine(0), (1, 1, 1))
        with pytest.raises(ValueError, match="case c: pred must have the shape of truth"):
            scores.add("c", spine(0), spine(0, 0), (1, 1, 1))
        with pytest.raises(ValueError, match="no case was scored"):
            CaseScores(TABLE).write(tmp_path)


def item(case: str, pred: np.ndarray, label: np.ndarray, **more) -> dict:
    affine = torch.diag(torch.tensor([0.5, 2.0, 4.0, 1.0]))
    volumes = {"pred": pred, "label": label}
    return {"case": case} | {k: MetaTensor(torch.tensor(v)[None], affine=affine) for k, v in volumes.items()} | more


class TestScoreWriter:
    def test_writes_at_the_end_and_logs(self, tmp_path, caplog):
        batches = [
            [item("a", spine(L5, 0), spine(0, L5))],
            [item("b", spine(SACRUM, L5), spine(0, L5), unlabelled_classes=[torch.tensor([SACRUM])])],
        ]
        engine = Engine(lambda _, batch: batch)
        ScoreWriter(tmp_path, TABLE).attach(engine)
        with caplog.at_level(logging.INFO, logger="scripts.evaluation.score_handlers"):
            engine.run(batches)
            engine.run(batches)  # a second run starts afresh
        found = pd.read_csv(tmp_path / "per_case.csv").set_index(["case", "class_id"])
        assert found.loc[("a", L5), "hd95_mm"] == pytest.approx(8 * 0.5)  # eight rows of half a millimetre
        assert found.loc[("b", L5), "dice"] == 1.0
        assert ("b", SACRUM) not in found.index
        assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["n_cases"] == 2
        assert "n = 2 cases" in caplog.text

    def test_variants(self, tmp_path):
        output = item("a", spine(L4), spine(L5)) | {"decoded": torch.tensor(spine(L5))[None]}
        engine = Engine(lambda _, batch: batch)
        ScoreWriter(tmp_path, TABLE, {"raw": "pred", "decoded": "decoded"}, distances=False).attach(engine)
        engine.run([[output]])
        summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
        assert (summary["mdice"], summary["decoded"]["mdice"]) == (0.0, 1.0)

    def test_exception(self, tmp_path):
        engine = Engine(lambda _, batch: batch)
        engine.logger.setLevel(logging.CRITICAL)
        ScoreWriter(tmp_path, TABLE).attach(engine)
        two = torch.zeros(2, 4, 4, 2)
        with pytest.raises(ValueError, match=r"must be \(1, ...\) or \(...\), one volume, got \(2, 4, 4, 2\)"):
            engine.run([[{"case": "a", "pred": two, "label": two}]])


class TestVolumeScoresHandler:
    def test_value(self):
        engine = Engine(lambda _, batch: batch)
        VolumeScoresHandler(TABLE.num_classes).attach(engine, "val_mean_dice")
        stack = torch.tensor(spine(L5, L4).astype(np.int64)).movedim(-1, 0)  # (S, H, W)
        with_sacrum = item("b", spine(SACRUM, L5), spine(0, L5), unlabelled_classes=(SACRUM,))
        engine.run([{"pred": stack, "label": stack}, [with_sacrum, item("c", spine(L4, L5), spine(L5, L4))]])
        assert engine.state.metrics["val_mean_dice"] == pytest.approx((1 + 1 + 0) / 3)
        assert engine.state.metric_details["val_mean_dice"].shape == (3, 19)


class TestReadingOutputs:
    @pytest.mark.parametrize("ids", [(1, 4), [torch.tensor([1]), torch.tensor([4])], torch.tensor([1, 4]), [1, 4]])
    def test_class_ids(self, ids):
        assert class_ids(ids) == (1, 4)

    @pytest.mark.parametrize("ids", [(), [], None])
    def test_no_class_ids(self, ids):
        assert class_ids(ids) == ()

    def test_case_name_from_the_file(self):
        label = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "/data/spine_07.nii.gz"})
        assert case_name({"label": label}) == "spine_07"
        assert case_name({"label": label, "case": "x.y"}) == "x.y"
        with pytest.raises(ValueError, match="needs the key 'case'"):
            case_name({"label": torch.zeros(1)})

    def test_spacing(self):
        turned = torch.tensor([[0, 0, 3.0, 7], [-0.5, 0, 0, 1], [0, 2.0, 0, 5], [0, 0, 0, 1]])
        assert spacing_of(MetaTensor(torch.zeros(1, 4, 4, 2), affine=turned)) == pytest.approx((0.5, 2.0, 3.0))
        assert spacing_of(torch.zeros(4, 4, 2)) == (1, 1, 1)
