"""The examples of docs/python.md run, one after the other as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from products import defective_image

from uflow_cli.images import write_png

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def test_the_examples_run(graph_run, product, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(graph_run, "runs/mvtec/fabric")
    shutil.copytree(product / "stripes" / "train" / "good", "good")
    shutil.copytree(photographs[0].parent, "parts")
    Path("parts/cut.png").write_bytes(photographs[0].read_bytes()[:100])
    write_png(Path("part.png"), defective_image(3)[0])
    names: dict[str, object] = {}
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    for example in examples:
        exec(compile(example, PAGE.name, "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith("defect -")
    assert {"a.png good", "b.png good", "c.png defect", "runs/mine 20"} <= {line.rsplit(" ", 1)[0] if "mine" in line else line for line in out.splitlines()}  # fmt: skip
    assert len(names["problems"]) == 1
