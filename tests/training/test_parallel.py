from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from scripts.training.handlers import ModelFile, TrainingCheckpoint
from scripts.training.outputs import MetricsLog
from scripts.training.parallel import SharedBatchNorm, shared_objective


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`two_processes(rank)`: this process takes itself for one of two; a sum over both doubles its own value."""

    def pretend(rank: int) -> None:
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
        monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
        monkeypatch.setattr("ignite.distributed.all_reduce", lambda tensor: tensor + 3)

    return pretend


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


class TestSharedObjective:
    def test_alone_it_is_the_objective(self) -> None:
        objective = lambda batch, progress: {}  # noqa: E731
        assert shared_objective(objective, torch.optim.SGD(network().parameters(), 0.1)) is objective


class TestSharedBatchNorm:
    def test_alone_nothing_changes(self) -> None:
        net, engine = network(), Engine(lambda engine, batch: None)
        SharedBatchNorm({"student": net}).attach(engine)
        engine.state.device = torch.device("cuda")
        before = net[1].running_mean.clone()
        engine.run([0])
        assert type(net[1]) is nn.BatchNorm2d
        assert torch.equal(net[1].running_mean, before)

    def test_layers_on_a_gpu(self, two_processes: Any) -> None:
        two_processes(0)
        net = network()
        weight, mean = net[1].weight, net[1].running_mean
        handler = SharedBatchNorm({"student": net, "optimizer": torch.optim.SGD(net.parameters(), 0.1)})
        handler.start(SimpleNamespace(state=SimpleNamespace(device="cpu")))
        assert type(net[1]) is nn.BatchNorm2d
        handler.start(SimpleNamespace(state=SimpleNamespace(device="cuda:1")))
        assert type(net[1]) is nn.SyncBatchNorm
        assert net[1].weight is weight  # the one that the optimiser moves
        assert net[1].running_mean is mean

    def test_mean_of_the_buffers(self, two_processes: Any) -> None:
        two_processes(1)
        net = network()
        net[1].running_mean.fill_(5.0)  # the other process has 3
        SharedBatchNorm({"student": net}).average(None)
        assert net[1].running_mean.tolist() == [4.0, 4.0]
        assert net[1].num_batches_tracked == 0


class TestOneWriter:
    """What only the first of several processes leaves behind."""

    @pytest.mark.parametrize("rank", [0, 1])
    def test_files(self, tmp_path: Any, two_processes: Any, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
        two_processes(rank)
        other = {"loss": 4.0, "loss/rare": 7.0}
        gather = lambda parts, own: parts.__setitem__(slice(2), [own, other])  # noqa: E731
        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(2.0), "part": torch.tensor(1.0)})
        loader = SimpleNamespace(start_at=lambda step: None)
        TrainingCheckpoint(tmp_path / "checkpoint.pt", {}, loader, resume=False).attach(engine)
        MetricsLog(tmp_path / "metrics.csv").attach(engine)
        model = ModelFile(lambda: (tmp_path / "model.pt").touch())
        model.attach(engine)
        engine.run([0], max_epochs=1)
        files = sorted(path.name for path in tmp_path.iterdir())
        assert files == ([] if rank else ["checkpoint.pt", "metrics.csv", "model.pt"])
        assert model.best == float("inf")  # a resumed run compares with it on every process
        if not rank:
            rows = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
            assert rows[1:] == ["1,1,loss,3", "1,1,loss/part,1"]


class TestStartOfARound:
    def test_batches_go_on(self, tmp_path: Any) -> None:
        started: list[int] = []
        engine = Engine(lambda engine, batch: None)
        handler = TrainingCheckpoint(tmp_path / "c.pt", {}, SimpleNamespace(start_at=started.append), resume=False)
        engine.add_event_handler(Events.STARTED, handler.load)
        engine.run([0, 0], max_epochs=1)
        engine.state.max_epochs = 2
        engine.run([0, 0])
        assert started == [0, 2]
