"""Trainings that are killed, run out of disk space, or find their folder in use; the same command resumes them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bundle.launch import BUNDLE_ROOT, command
from scripts.files import lock_folder
from scripts.phantom.write import write_phantoms
from tests.reliability.kill_chain import PHASES_OF, STAGES, Chain, server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Chains of both stages; `make test` takes one."""
    if "chain_number" in metafunc.fixturenames:
        chains = [(s, n) for s in STAGES for n in range(metafunc.config.getoption("cases", None) or 4)]
        later = [() if chain == ("stage 1", 0) else pytest.mark.reliability for chain in chains]
        params = [
            pytest.param(*c, marks=m, id=f"{c[0].replace(' ', '')}-{c[1]}") for c, m in zip(chains, later, strict=True)
        ]
        metafunc.parametrize(("stage", "chain_number"), params)


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"labelled": 2, "unlabelled": 2, "validation": 1, "test": 1, "shape_hw": (40, 32)}
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), **sizes, pixel_mm=7.0)


@pytest.fixture(scope="module")
def new_chain(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Chain]]:
    """`new_chain(stage, name)`: a training that has not begun."""
    work = tmp_path_factory.mktemp("chains")
    with server(work) as serve:
        yield lambda stage, name: Chain(serve, stage, work / stage / name, datalist, work)


@pytest.fixture(scope="module")
def uninterrupted(new_chain: Callable[[str, str], Chain]) -> Callable[[str], Chain]:
    """`uninterrupted(stage)`: a finished training that was never killed; stage 2 reads what stage 1 left."""
    finished: dict[str, Chain] = {}

    def run(stage: str) -> Chain:
        for earlier in list(STAGES)[: list(STAGES).index(stage) + 1]:
            if earlier not in finished:
                finished[earlier] = new_chain(earlier, "whole")
                finished[earlier].go_on()
        return finished[stage]

    return run


def test_resumed_runs_end_as_an_uninterrupted_one(
    stage: str,
    chain_number: int,
    uninterrupted: Callable[[str], Chain],
    new_chain: Callable[[str, str], Chain],
    seed: int,
    record_row: Callable[..., None],
) -> None:
    """A run killed once in every phase and resumed each time leaves the same bits."""
    whole, chain = uninterrupted(stage), new_chain(stage, str(chain_number))
    kills = chain.killed_in_every_phase(whole.marks(), random.Random(f"{seed} {stage} {chain_number}"))
    found = chain.differences(whole)
    for kill in kills:
        record_row("kill", stage=stage, seed=seed, chain=chain_number, **kill, survived=not found)
    assert found == []
    assert set(PHASES_OF[stage]) <= {kill["phase"] for kill in kills}
    shutil.rmtree(chain.folder)


@pytest.fixture(scope="module")
def broken_off(new_chain: Callable[[str, str], Chain]) -> SimpleNamespace:
    """Stage 1, killed in its second epoch: `fails()` is what its next process prints, which has to fail."""
    chain = new_chain("stage 1", "broken off")
    assert chain.go_on({"phase": "checkpoint", "occurrence": 1, "call": 0}) == -9
    log = Path(chain.job["log"])

    def fails(**more: Any) -> str:
        log.write_text("")
        assert chain.go_on(may_fail=True, **more) == 1
        return log.read_text(encoding="utf-8")

    return SimpleNamespace(chain=chain, fails=fails, checkpoint=chain.folder / "run" / "checkpoint.pt")


def test_death_of_a_loader_process_is_one_sentence(broken_off: SimpleNamespace, tmp_path: Path) -> None:
    """The system kills the largest process when memory runs out, and that may be one that reads."""
    overrides = {**broken_off.chain.job["overrides"], "num_workers": 1, "max_epochs": 1000, "resume": False}
    overrides |= {"output_dir": tmp_path / "run", "prompt_model_dir": tmp_path / "models"}
    line = command("pretraining", ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"], overrides)
    run = subprocess.Popen(line, cwd=BUNDLE_ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    children, end = Path(f"/proc/{run.pid}/task/{run.pid}/children"), time.monotonic() + 120
    try:
        while not (tmp_path / "run" / "checkpoint.pt").is_file() or not children.read_text():
            assert run.poll() is None, run.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.05)
        for reader in children.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(reader), signal.SIGKILL)
        said = run.communicate(timeout=60)[1]
    finally:
        run.kill()
    assert run.returncode == 1
    assert "Traceback" not in said
    assert "Error: a process that reads data was killed" in said


class TestStorage:
    def test_file_size_limit_leaves_the_last_checkpoint(self, broken_off: SimpleNamespace) -> None:
        before = broken_off.checkpoint.read_bytes()
        said = broken_off.fails(file_size=30_000)
        assert "Traceback" not in said
        (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert "cannot be written: it would be larger than this process may write; raise the limit" in sentence
        assert broken_off.checkpoint.read_bytes() == before
        assert not [path for path in broken_off.checkpoint.parent.iterdir() if path.name.startswith(".part-")]

    def test_second_run_into_one_folder_is_refused(self, broken_off: SimpleNamespace) -> None:
        class Owner:
            pass

        owner = Owner()
        lock_folder(broken_off.checkpoint.parent, owner)
        said = broken_off.fails()
        del owner
        assert "Traceback" not in said
        assert f"is in use: process {os.getpid()} on " in said

    @pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/mount").exists(), reason="needs root and mount")
    def test_small_file_system_that_is_full(self, broken_off: SimpleNamespace, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
        if made.returncode:
            pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
        try:
            job = {"overrides": {**broken_off.chain.job["overrides"], "output_dir": str(disk / "run")}}
            said = broken_off.fails(**job)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        assert "Traceback" not in said
        assert "cannot be written: the disk is full; free some space" in said

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
    def test_read_only_folder(self, broken_off: SimpleNamespace) -> None:
        folder = broken_off.checkpoint.parent
        folder.chmod(0o500)
        try:
            said = broken_off.fails()
        finally:
            folder.chmod(0o700)
        assert "Traceback" not in said
        assert "cannot be written: " in said
