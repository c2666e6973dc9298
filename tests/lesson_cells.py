"""A small made-up lesson that uses every part of the lesson machinery once; several tests run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode

EXERCISE = '''
"""90.1: double."""
from kvlab.lesson.exercise import Exercise

EXERCISE = Exercise("90.1", "Double it", function="double", stub="""
def double(x):
    ...
""")

@EXERCISE.inputs
def inputs(draw):
    return (draw.normal(3),)

@EXERCISE.mistake("You squared it.")
def squared(x):
    return x * x
'''
SOLUTION = "def double(x):\n    return 2 * x\n"

CELLS = [
    "from kvlab import lesson\nfrom ipywidgets import Button, IntSlider\nimport importlib\n"
    "import pathlib\n"
    'importlib.import_module("kvlab.lesson.exercise").HERE = pathlib.Path("course")\n'
    'lesson.start("03")',
    'lesson.predict("03.speed", "How much faster?", slider=(1, 2000), unit="×")',
    'lesson.predict("03.broken", "How many?", choices=["one", "two"])',
    'lesson.reveal("03.speed", 27.0)',
    'tokens = ["The", " cat", " 猫", "\\n"]\n'
    "map = [[1, 0, 0, 0], [.5, .5, 0, 0], [.2, .3, .5, 0], [.7, .1, .1, .1]]\n"
    'lesson.attention_map(map, tokens, "layer 26, head 3")',
    "@lesson.styled\ndef line(height):\n"
    '    figure, (ax,) = lesson.drawing(4, 2, alt=f"a line at {height}")\n'
    "    ax.axhline(height); ax.set_ylim(0, 10); return figure\n\n"
    'height = IntSlider(value=2, min=0, max=9, description="height")\n'
    'lesson.Exhibit([height, lesson.live(line, height)], title="A line", picture=lambda: line(2))',
    'power = IntSlider(value=1, min=1, max=9, description="power")\n'
    "table = lesson.live(lambda p: lesson.heat_table(\n"
    '    [[v ** p for v in row] for row in map], tokens, tokens, caption=f"power {p}"), power)\n'
    "picture = lesson.attention_map(map, tokens, 'map')\n"
    'lesson.Exhibit([power, table], title="A table", picture=picture)',
    'slow = Button(description="slow")\nsays = lesson.on_click(slow, lambda: setattr(power, "value", 5))\n'
    "lesson.Exhibit([slow, says, lesson.live(lambda p: lesson.card(str(p)), power)],\n"
    '               title="A button", html="press")',
    "def double(x):\n    ...",
    'lesson.check("90.1", double)',
    'lesson.check("90.1", lambda x: x * x)',
    'lesson.check("90.1", lambda x: x.undefined)',
    'lesson.solution("90.1")',
    'lesson.quiz("90", [lesson.Item("Which?", {"this": "Yes, this.", "that": "No, this."}, "this")])',
    'CLAIMS = {"a": "A claim.", "b": "Another."}\nlesson.judge("03.claims", CLAIMS)',
    'lesson.judged("03.claims", CLAIMS, {"a": ("true", "seen"), "b": ("depends", "on 3 of 4")})',
    'lesson.recorded("never_measured", gpu=True)',
    "lesson.source(lesson.heat_table, docstring=False)",
]


def write_lesson(folder: Path) -> Path:
    """Write the lesson, not yet run, and its exercise into a folder; returns the notebook's path."""
    for kind, name, text in (("exercises", "e90_1.py", EXERCISE), ("solutions", "90_1_double.py", SOLUTION)):
        (folder / "course" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "course" / kind / name).write_text(text, encoding="utf-8")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    path = folder / "machinery.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def outputs(notebook: NotebookNode, source_part: str) -> dict[str, str]:
    """The one output of the cell whose source contains a text, by kind."""
    (cell,) = (cell for cell in notebook.cells if source_part in cell.source)
    (output,) = cell.outputs
    return dict(output.data)
