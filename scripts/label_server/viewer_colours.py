"""Colours of the class table for OHIF, the viewer that MONAI Label serves.

OHIF asks no server for colours: a segment has that of its name in a table of the viewer's own code, or else a sum of
the name's letters, so that neighbouring levels look alike. The file with this table is served with the classes in front
of it; the file itself stays as it is.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fastapi import Response
from monailabel.endpoints import ohif

TABLE = "const GenericAnatomyColors = ["
"""Where the viewer's code begins its table of names and colours, of which the first that fits is taken."""


def colour_segments(class_table: str | Path) -> None:
    """Let the server give OHIF the colours of a class table, a JSON file; another OHIF keeps its own colours."""
    rows = json.loads(Path(class_table).read_text(encoding="utf-8"))["classes"]
    # MONAI Label names classes in small letters
    entries = [f"{{label: {json.dumps(row['name'].lower())}, value: rgbToHex{tuple(row['colour'])}}}, " for row in rows]
    coloured = {}
    for file in Path(ohif.__file__).parent.glob("static/ohif/*.js"):
        code = file.read_text(encoding="utf-8", errors="surrogateescape")
        if TABLE in code:
            code = code.replace(TABLE, TABLE + "".join(entries), 1)
            coloured[file.name] = code.encode(errors="surrogateescape")
    if not coloured:
        logging.getLogger(__name__).warning("this MONAI Label's OHIF takes no colours: segments have its own")
    serve = ohif.get_ohif

    def get_ohif(path: str) -> Response:
        if path in coloured:
            return Response(coloured[path], media_type="text/javascript")
        return serve(path)

    ohif.get_ohif = get_ohif
