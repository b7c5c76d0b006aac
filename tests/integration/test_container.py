"""The Dockerfile's steps without Docker: as a shell script, in a folder and a virtual environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.dockerfile import as_script, entry


@pytest.mark.slow
def test_steps_give_what_infers(trained: SimpleNamespace, datalist: Path, tmp_path: Path) -> None:
    """Installs torch and all of requirements.txt: gigabytes where the package index has no CPU build."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    # not the CPU builds' index: what the machine's own gives is the build that fits it
    environment |= {"TORCH_INDEX": "https://pypi.org/simple", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", as_script(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    bundle = tmp_path / "bundle"
    shutil.copytree(trained.models, bundle / "models", dirs_exist_ok=True)
    scan = datalist.parent / "images/phantom_0002.nii.gz"
    line = ["run", "inference", "--config_file", "configs/inference.yaml"]
    line += ["--input_dir", str(scan), "--output_dir", str(tmp_path / "out")]
    environment["PATH"] = f"{tmp_path}/opt/venv/bin:{environment['PATH']}"
    done = subprocess.run([*entry(), *line], cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert (tmp_path / "out/phantom_0002_seg.nii.gz").is_file()
