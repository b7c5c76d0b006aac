"""A MONAI Label server on this machine, in the environment that `make test-label` makes."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-label" / "bin" / "python"
MODEL = "spine_mri_cps4_segmentation"


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A server on this machine, its studies, and its answers.

    `overlays` are those of the app; without any the shipped network goes along. `keys` replace keys of its train.yaml.
    """

    def __init__(
        self,
        folder: Path,
        studies: Path | str = "",
        settings: Mapping[str, str] | None = None,
        overlays: Sequence[str] = ("narrow.yaml", "smoke.yaml"),
        keys: Mapping[str, Any] | None = None,
    ) -> None:
        self.studies, self.app, self.log = folder / "studies", folder / "app", folder / "server.log"
        self.models = self.app / "model" / MODEL / "models"
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        made = subprocess.run(
            [
                *(PYTHON, "-m", "scripts", "label_app", self.app, "--studies", studies or self.studies, "--port", port),
                *("--overlays", *overlays),
            ],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        config = self.models.parent / "configs/train.yaml"
        given = {**yaml.safe_load(config.read_text(encoding="utf-8")), **(keys or {})}
        config.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
        line = ["env", *shlex.split(made.stdout.splitlines()[-1])]
        line += ["--conf", "stage1", "offline_encoders.yaml,smoke.yaml"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(settings or {})}
            )
        self.wait(lambda: self.ask("/info/")[0] == 200, "the server to start")

    def ask(
        self, path: str, body: bytes | None = None, kind: str = "application/json", method: str | None = None
    ) -> tuple[int, bytes]:
        """Status and content of an answer; 0 while there is none."""
        headers = {"Content-Type": kind} if body is not None else {}
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except urllib.error.URLError:
            return 0, b""

    def json(self, path: str, given: dict[str, Any] | None = None) -> Any:
        status, content = self.ask(path, None if given is None else json.dumps(given).encode())
        assert status == 200, content
        return json.loads(content)

    def infer(self, image: str, output: str = "image", params: str = '{"device": "cpu"}') -> tuple[int, bytes]:
        form = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode({"params": params}).encode()
        return self.ask(f"/infer/{MODEL}?image={image}&output={output}", body, form)

    def put(self, path: str, field: str, file: Path, params: dict[str, Any] | str | None = None) -> tuple[int, bytes]:
        """Upload a file as a viewer does."""
        mark = b"----part"
        parts = [(f'name="{field}"; filename="{file.name}"', file.read_bytes())]
        parts.append(('name="params"', (params if isinstance(params, str) else json.dumps(params or {})).encode()))
        body = b"".join(
            b"--" + mark + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
            for head, content in parts
        )
        kind = f"multipart/form-data; boundary={mark.decode()}"
        return self.ask(path, body + b"--" + mark + b"--\r\n", kind, "PUT")

    def train(self, **settings: Any) -> tuple[str, str]:
        """Train to the end: the task's status, and what the server logged meanwhile."""
        begin = self.log.stat().st_size
        self.json(f"/train/{MODEL}", {"device": "cpu", "max_epochs": 2, **settings})
        self.wait(lambda: self.json("/train/")["status"] in ("DONE", "ERROR"), "the training to end")
        return self.json("/train/")["status"], self.log.read_text(encoding="utf-8")[begin:]

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) is not None

    def wait_for_scoring(self) -> None:
        """Wait until every scoring task that was started has ended."""

        def ended() -> bool:
            return all(task["status"] in ("DONE", "ERROR") for task in self.json("/scoring/?all=true"))

        self.wait(ended, "the scores")

    def wait(self, ready: Any, what: str, seconds: float = 900) -> None:
        end = time.monotonic() + seconds
        while not ready():
            tail = self.log.read_text(encoding="utf-8")[-2000:]
            assert self.process.poll() is None, tail
            assert time.monotonic() < end, f"waited too long for {what}\n{tail}"
            time.sleep(1)

    def state(self) -> dict[str, bytes]:
        """Weights, settings and labels, byte for byte."""
        files = [*self.models.rglob("*.*"), *(self.studies / "labels").rglob("*.nii.gz")]
        return {str(file): file.read_bytes() for file in files if file.is_file()}
