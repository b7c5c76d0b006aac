"""Runs that die by SIGKILL, on a full disk or before a folder that is taken; the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bundle.launch import BUNDLE_ROOT, command
from scripts.files import lock_folder
from scripts.tools.figures_file import add_figures
from scripts.tools.reliability.kills import FIVE, STAGES, Chain, kill_chains, server, summary


class TestKillChains:
    def test_one_of_stage_1(self, tmp_path: Path) -> None:
        rows = kill_chains(tmp_path, ["stage 1"], 1, seed=3)
        assert [row for row in rows if not row["survived"]] == []
        assert set(STAGES["stage 1"][2]) <= {row["phase"] for row in rows}

    @pytest.mark.slow
    def test_at_least_four_in_each_phase(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = kill_chains(tmp_path, list(STAGES), 4)
        with capsys.disabled():
            print(
                "", *(f"{r['stage']}: {r['moment']}: {'same end' if r['survived'] else 'LOST'}" for r in rows), sep="\n"
            )
        assert [row for row in rows if not row["survived"]] == []
        for stage, (_, _, phases) in STAGES.items():
            counted = Counter(row["phase"] for row in rows if row["stage"] == stage)
            assert all(counted[phase] >= 4 for phase in phases if phase in FIVE), counted


class TestRecord:
    def test_leaves_the_figures_of_others(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text('{"volumes": 7, "kills": []}', encoding="utf-8")
        rows = [
            {"stage": "stage 1", "phase": "slices", "survived": True},
            {"stage": "stage 1", "phase": "slices", "survived": False},
        ]
        add_figures(tmp_path / "r.json", summary(rows))
        made = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert made["kills_survived_by_phase"] == {"stage 1, slices": 1}
        assert (made["volumes"], made["kills_survived"], made["kills"]) == (7, 1, rows)


@pytest.fixture(scope="module")
def broken_off(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Stage 1, killed in its second epoch: `chain` goes on with it, `said()` is what it printed last."""
    work = tmp_path_factory.mktemp("broken_off")
    with server(work) as serve:
        chain = Chain(serve, "stage 1", work / "run", datalist, work)
        assert chain.go_on({"phase": "checkpoint", "occurrence": 1, "call": 0}) == -9
        log = Path(chain.job["log"])

        def fails(**more: Any) -> str:
            log.write_text("")
            assert chain.go_on(may_fail=True, **more) == 1
            return log.read_text(encoding="utf-8")

        yield SimpleNamespace(chain=chain, fails=fails, checkpoint=chain.folder / "run" / "checkpoint.pt")


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
            there = {"output_dir": str(disk / "run"), "prompt_model_dir": str(disk / "prompt")}
            job = {"overrides": {**broken_off.chain.job["overrides"], **there}}
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
