"""Runs the notebooks of examples/ and keeps what they print and draw in them.

python scripts/notebooks.py            # all, in place
python scripts/notebooks.py --output FOLDER
"""

import argparse
import base64
import io
import pathlib
import sys
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
NAMES = ("bitten_in_ten_minutes", "check_your_own_step")
COLOURS = 64  # of a picture: plots need no more, and are half as large


def executed(path: pathlib.Path) -> Any:
    """The notebook with what its cells say today."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=300, resources=folder).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if "outputs" in cell:  # libraries say on stderr what they find on a machine
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                _make_smaller(output)
    notebook.metadata.language_info = {"name": "python"}
    nbformat.validate(notebook)
    return notebook


def _make_smaller(output: Any) -> None:
    picture = output.get("data", {}).get("image/png")
    if picture is None:
        return
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLOURS).save(small, "png", optimize=True)
    output["data"]["image/png"] = base64.b64encode(small.getvalue()).decode()


def main() -> int:
    """Runs and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER)
    options = parser.parse_args()
    for name in NAMES:
        notebook = executed(FOLDER / f"{name}.ipynb")
        nbformat.write(notebook, options.output / f"{name}.ipynb")
        print(options.output / f"{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
