"""The Dockerfile's instructions, and what they do as a shell script in a folder, where no image can be built."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE, LABEL = ROOT / "Dockerfile", ROOT / "Dockerfile.label"


def instructions(path: Path = BUNDLE) -> list[tuple[str, str]]:
    """Each instruction's word and what follows, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def entry(path: Path = BUNDLE) -> list[str]:
    """The command that the image starts."""
    return json.loads(dict(instructions(path))["ENTRYPOINT"])


def sources(path: Path = BUNDLE) -> list[str]:
    """What the image takes from the bundle's root."""
    return [name for word, rest in instructions(path) if word == "COPY" for name in shlex.split(rest)[:-1]]


def as_script(folder: Path, path: Path = BUNDLE) -> str:
    """A script that does below `folder` what the instructions do in an image; users and owners stay as they are."""
    lines = ["set -eu", "useradd() { :; }", "chown() { :; }"]
    for word, rest in instructions(path):
        rest = re.sub(r"(?<![\w./])/(bundle|opt|app|home)\b", rf"{folder}/\1", rest)
        if word == "RUN":
            lines.append(rest)
        elif word == "ENV":
            lines.append(f"export {rest}")
        elif word == "ARG":
            name, value = rest.split("=", 1)
            lines.append(f'{name}="${{{name}:-{value}}}"')
        elif word == "WORKDIR":
            lines.append(f"mkdir -p {rest} && cd {rest}")
        elif word == "COPY":
            *names, target = shlex.split(rest)
            # of a folder its content is copied
            files = [f"{ROOT / name}/." if (ROOT / name).is_dir() else str(ROOT / name) for name in names]
            lines.append(f"mkdir -p {target} && cp -r {shlex.join(files)} {target}")
    return "\n".join(lines) + "\n"
