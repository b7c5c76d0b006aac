from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_iou
from scipy.ndimage import binary_erosion

from scripts.evaluation.metrics import (
    LevelsRight,
    VolumeScores,
    clean_pair,
    confusion_matrix,
    dice_per_class,
    iou_per_class,
    level_agnostic_dice,
    mean_dice,
    missed,
    per_class_scores,
    spurious,
    surface_distances,
    wrong_level,
)
from scripts.labels import IGNORE, ClassTable

TABLE = ClassTable.load()
N = TABLE.num_classes
L5, L4, L3, DISC = 2, 3, 4, 12
SPACING = (2.0, 1.0, 4.0)


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """Random blocks of classes 0..7 for prediction and truth, (24, 16, 3)."""
    generator = np.random.default_rng(0)
    pred, truth = (generator.integers(0, 8, (6, 4, 3)).repeat(4, 0).repeat(4, 1) for _ in range(2))
    return pred.astype(np.uint8), truth.astype(np.uint8)


def row_of(rows: list[dict], class_id: int) -> dict:
    return next(row for row in rows if row["class_id"] == class_id)


class TestCleanPair:
    def test_ignored_and_unlabelled_become_background(self):
        pred, truth = clean_pair(np.array([1, 2, 3, 1]), np.array([1, IGNORE, 3, 3]), N, unlabelled_classes=(1,))
        assert pred.tolist() == [0, 0, 3, 0]
        assert truth.tolist() == [0, 0, 3, 3]
        assert [a.tolist() for a in clean_pair(np.array([2, 2]), np.array([IGNORE, 2]), N)] == [[0, 2], [0, 2]]

    def test_inputs_stay_as_they_are(self, labels):
        pred, truth = (torch.from_numpy(a.astype(np.int64)) for a in labels)
        before = pred.clone()
        clean_pair(pred, truth, N, (1, 2))
        assert torch.equal(pred, before)

    @pytest.mark.parametrize("make", [np.uint16, torch.tensor, lambda a: MetaTensor(torch.tensor(a).float())])
    def test_any_type(self, make):
        pred, truth = clean_pair(make([3, 0]), make([3, 4]), N)
        assert (pred.tolist(), truth.tolist()) == ([3, 0], [3, 4])
        assert type(pred) is torch.Tensor

    def test_exception(self):
        with pytest.raises(ValueError, match=r"pred must have the shape of truth \(2,\), got \(3,\)"):
            clean_pair(np.zeros(3), np.zeros(2), N)
        with pytest.raises(ValueError, match=r"pred must hold class ids 0..19, got values in 0..20"):
            clean_pair(np.array([0, 20]), np.array([0, 1]), N)
        with pytest.raises(ValueError, match="pred must hold class ids"):
            clean_pair(np.array([IGNORE, 1]), np.array([0, 1]), N)


class TestDiceAndIoU:
    def test_value(self):
        confusion = confusion_matrix(np.array([2, 2, 3, 0, 5]), np.array([2, 3, 3, 3, 0]), N)
        dice, iou = dice_per_class(confusion), iou_per_class(confusion)
        assert dice[[1, 2]].tolist() == pytest.approx([2 / 3, 2 / 4])
        assert iou[[1, 2]].tolist() == pytest.approx([1 / 2, 1 / 3])

    def test_absent_in_both_is_nan_and_in_one_only_zero(self):
        confusion = confusion_matrix(np.array([2, 0]), np.array([3, 0]), N)
        for scores in (dice_per_class(confusion), iou_per_class(confusion)):
            assert scores[[1, 2]].tolist() == [0, 0]
            assert scores[3:].isnan().all()

    def test_twin(self, labels):
        pred, truth = labels
        one_hot = [torch.nn.functional.one_hot(torch.tensor(a).long(), 8).movedim(-1, 0)[None] for a in labels]
        confusion = confusion_matrix(pred, truth, 8)
        dice = compute_dice(*one_hot, include_background=False, ignore_empty=False)[0].double()
        iou = compute_iou(*one_hot, include_background=False, ignore_empty=False)[0].double()
        torch.testing.assert_close(dice_per_class(confusion), dice, rtol=1e-5, atol=0)
        torch.testing.assert_close(iou_per_class(confusion), iou, rtol=1e-5, atol=0)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
    def test_iou_follows_from_dice(self, pairs):
        pred, truth = np.array(pairs).T
        confusion = confusion_matrix(pred, truth, 5)
        dice = dice_per_class(confusion)
        torch.testing.assert_close(iou_per_class(confusion), dice / (2 - dice), equal_nan=True)


class TestMeanDice:
    def test_value(self):
        pred, truth = np.array([2, 2, 3, 4]), np.array([2, 2, 3, 0])
        assert mean_dice(pred, truth, N) == pytest.approx(2 / 3)
        assert mean_dice(pred, truth, N, excluded=(4,)) == 1.0

    def test_nothing_to_score_is_nan(self):
        assert math.isnan(mean_dice(np.zeros(4), np.zeros(4), N))


class TestMistakes:
    def test_missed_and_spurious(self):
        confusion = confusion_matrix(np.array([2, 5, 0]), np.array([2, 0, 3]), N)
        assert missed(confusion) == [3]
        assert spurious(confusion) == [5]

    @pytest.mark.parametrize(
        ("predicted", "wrong"),
        [
            ([L4, L4, L5, 0, 0], [L5]),  # two of the three pixels predicted as vertebra are L4
            ([L4, L5, 0, 0, 0], []),  # exactly half is not more than half
            ([0, 0, 0, 0, 0], []),  # missed, not wrong
            ([DISC, DISC, DISC, DISC, L5], []),  # another group does not count
            ([DISC, DISC, DISC, DISC, L3], [L5]),
        ],
    )
    def test_wrong_level(self, predicted, wrong):
        confusion = confusion_matrix(np.array(predicted), np.full(5, L5), N)
        assert wrong_level(confusion, TABLE) == wrong

    def test_level_agnostic_dice(self):
        confusion = confusion_matrix(np.array([L4, L3, 0, L5, 1]), np.array([L5, L3, L5, DISC, 1]), N)
        scores = level_agnostic_dice(confusion, TABLE)
        assert scores == {"vertebra": pytest.approx(2 * 2 / (3 + 3)), "disc": 0.0}

    def test_level_agnostic_dice_without_the_group_is_nan(self):
        confusion = confusion_matrix(np.array([L5]), np.array([L5]), N)
        assert math.isnan(level_agnostic_dice(confusion, TABLE)["disc"])


class TestSurfaceDistances:
    def test_value_in_mm(self):
        pred, truth = np.zeros((2, 9, 9, 1), dtype=bool)
        truth[1, :] = True
        pred[4, :] = True  # a line three rows of 2 mm further down
        assert surface_distances(pred, truth, SPACING) == (6.0, 6.0)

    def test_value_of_the_95th_percentile(self):
        """A row of 40 predicted pixels lies on the truth; 1 to 38 pixels of the truth run on beyond it."""
        pred, truth = np.zeros((2, 40, 3), dtype=bool)
        pred[:2, 1], truth[:, 1] = True, True
        assert surface_distances(pred, truth, (1.0, 1.0))[0] == pytest.approx(np.percentile([0, *range(39)], 95))

    def test_twin(self, labels):
        pred, truth = (a == 3 for a in labels)
        points = [np.argwhere(m & ~binary_erosion(m)) * SPACING for m in (pred, truth)]
        gaps = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
        there, back = gaps.min(1), gaps.min(0)
        hd95, assd = surface_distances(pred, truth, SPACING)
        assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
        assert assd == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


class TestPerClassScores:
    def test_rows(self, labels):
        pred, truth = labels
        rows = per_class_scores(pred, truth, SPACING, TABLE)
        assert [row["class_id"] for row in rows] == list(range(1, N))
        assert list(rows[0]) == ["class_id", "class", "dice", "iou", "hd95_mm", "assd_mm"]
        assert rows[2]["class"] == "L4"

    def test_cropping_changes_nothing(self, labels):
        pred, truth = labels
        rows = per_class_scores(pred, truth, SPACING, TABLE)
        for class_id in range(1, 8):
            whole = surface_distances(pred == class_id, truth == class_id, SPACING)
            row = row_of(rows, class_id)
            assert (row["hd95_mm"], row["assd_mm"]) == pytest.approx(whole)

    def test_perfect_prediction(self, labels):
        rows = per_class_scores(labels[1], labels[1], SPACING, TABLE)
        assert all((r["dice"], r["iou"], r["hd95_mm"], r["assd_mm"]) == (1, 1, 0, 0) for r in rows[:7])

    def test_distances_only_where_both_exist(self):
        pred, truth = np.zeros((2, 8, 8), dtype=np.int64)
        truth[:2], pred[4:6] = L5, L4
        rows = per_class_scores(pred, truth, (1, 1), TABLE)
        assert [row_of(rows, c)["dice"] for c in (L5, L4)] == [0, 0]
        assert all(math.isnan(row["hd95_mm"]) and math.isnan(row["assd_mm"]) for row in rows)

    def test_unlabelled_classes_get_no_row_and_change_none(self, labels):
        pred, truth = labels
        truth = np.where(truth == 1, 0, truth)
        rows = per_class_scores(pred, truth, SPACING, TABLE, unlabelled_classes=(1,))
        assert [row["class_id"] for row in rows] == list(range(2, N))
        without = per_class_scores(np.where(pred == 1, 0, pred), truth, SPACING, TABLE)
        assert rows[:6] == without[1:7]

    def test_ignored_pixels_leave_no_trace(self, labels):
        pred, truth = labels[0], labels[1].copy()
        truth[:8] = IGNORE
        garbage = pred.copy()
        garbage[:8] = 5
        assert per_class_scores(pred, truth, SPACING, TABLE)[:7] == per_class_scores(garbage, truth, SPACING, TABLE)[:7]

    def test_exception(self):
        with pytest.raises(ValueError, match=r"spacing_mm must have one value per axis of \(4, 4\), got \[1, 1, 1\]"):
            per_class_scores(np.zeros((4, 4)), np.zeros((4, 4)), [1, 1, 1], TABLE)


class TestVolumeScores:
    def test_mean_over_classes_then_over_volumes(self):
        metric = VolumeScores(N)
        metric(torch.tensor([[2, 2, 3, 3]]), torch.tensor([[2, 2, 4, 4]]))  # 1, 0, 0
        metric(torch.tensor([[2, 0, 0, 0]]), torch.tensor([[2, 0, 0, 0]]))  # 1
        metric(torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 0]]))  # nothing to score
        assert metric.aggregate().item() == pytest.approx((1 / 3 + 1) / 2)
        assert metric.get_buffer().shape == (3, N - 1)

    def test_unlabelled_classes(self):
        metric = VolumeScores(N)
        metric(torch.tensor([[1, 1, 2]]), torch.tensor([[0, 0, 2]]), unlabelled_classes=(1,))
        assert metric.aggregate().item() == 1.0

    def test_exception(self):
        with pytest.raises(ValueError, match="no volume was scored"):
            VolumeScores(N).aggregate()

    def test_levels_right(self) -> None:
        """Half of a structure is not right; one that neither has says nothing, one that was made up speaks against."""
        pairs = [
            ([1, 2, 2, 2, 2], [3, 2, 2, 2, 2]),  # right: 1 and 3 are not judged
            ([4, 2, 2, 0, 0], [4, 2, 2, 2, 2]),  # right: 2 * 2 / 6
            ([4, 2, 0, 0, 0], [4, 2, 2, 2, 0]),  # wrong: 2 * 1 / 4 is not above a half
            ([4, 2, 0, 0, 0], [0, 2, 0, 0, 0]),  # wrong: 4 is not there
            ([1, 0, 0, 0, 0], [1, 0, 0, 0, 0]),  # nothing to judge
        ]
        metric = LevelsRight(N, judged=(2, 4))
        for pred, truth in pairs:
            metric(torch.tensor([pred]), torch.tensor([truth]))
        assert metric.aggregate().item() == 0.5
        assert metric.get_buffer().shape == (5, N - 1)

    def test_a_volume_that_two_processes_scored_counts_once(self) -> None:
        truth = torch.tensor([[0, 1, 2, 3]])
        wrong = torch.tensor([[0, 2, 1, 3]])
        metric = VolumeScores(N)
        metric(truth, truth, volume=1)
        metric(wrong, truth, volume=0)
        once, rows = metric.aggregate(), metric.get_buffer()
        metric(truth, truth, volume=1)
        assert torch.equal(metric.aggregate(), once)
        torch.testing.assert_close(metric.get_buffer(), rows, equal_nan=True)
        metric(truth, truth)  # without a number it is another one
        assert len(metric.get_buffer()) == 3

    def test_rows_follow_the_numbers(self) -> None:
        """Those without a number first, all of them; of the others each once."""
        truth = torch.tensor([[0, 1, 2, 3]])
        metric = VolumeScores(N)
        for volume, pred in (
            (2, [0, 1, 2, 0]),
            (0, [0, 1, 0, 3]),
            (1, [0, 0, 2, 3]),
            (0, [0, 1, 0, 3]),
            *[(-1, [0, 1, 2, 3])] * 2,
        ):
            metric(torch.tensor([pred]), truth, volume=volume)
        expected = [[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]]
        assert metric.get_buffer()[:, :3].tolist() == expected
