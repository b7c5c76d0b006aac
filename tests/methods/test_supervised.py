from __future__ import annotations

import torch

from scripts.methods.supervised import Supervised
from scripts.ops.losses import PartialLabelCrossEntropy
from tests.tiny import CLASSES, SIZE, batch, network, stream, train


def objective(weight: float = 1.0) -> Supervised:
    return Supervised(network(), PartialLabelCrossEntropy(), {"supervised": weight})


class TestSupervised:
    def test_twin(self) -> None:
        method, labelled = objective(0.7), stream()
        labelled["label"][0, 0, :3] = 255
        labelled["is_unlabelled"][1, 2] = True
        losses = method({"labelled": labelled, "unlabelled": None}, 0.0)
        probs, total, counted = method.student(labelled["image"]).softmax(1), 0.0, 0
        for b in range(2):
            for row in range(SIZE):
                for column in range(SIZE):
                    label = int(labelled["label"][b, 0, row, column])
                    if label == 255:
                        continue
                    p = probs[b, label, row, column]
                    if label == 0 and b == 1:  # may be background or the class that nobody labelled
                        p = p + probs[b, 2, row, column]
                    total, counted = total - p.log(), counted + 1
        torch.testing.assert_close(losses["supervised"], total / counted)
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    def test_overfits(self) -> None:
        method = objective()
        losses = train(method, method.student.parameters(), batch())
        assert losses[-1] < 0.5 * losses[0]

    def test_overfits_partial_labels(self) -> None:
        """A class that is labelled 0 everywhere may be found or not: neither is punished."""
        method, data = objective(), batch()
        label = data["labelled"]["label"]
        label[label == 3] = 0
        data["labelled"]["is_unlabelled"][:, 3] = True
        losses = train(method, method.student.parameters(), data)
        assert losses[-1] < 0.5 * losses[0]
        logits = torch.full((2, CLASSES, SIZE, SIZE), -9.0)
        logits[:, 3] = 9.0
        nothing = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
        assert method.supervised_loss(logits, nothing, data["labelled"]["is_unlabelled"]) < 1e-3

    def test_unlabelled_stream_is_not_looked_at(self) -> None:
        method = objective()
        with torch.no_grad():
            alone, both = method(batch(unlabelled=False), 0.5), method(batch(), 0.5)
        assert torch.equal(alone["loss"], both["loss"])
        assert set(both) == {"loss", "supervised"}
