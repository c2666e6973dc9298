'''What only notebooks use: figures, widgets, predictions, exercises, quizzes. A page for lesson authors.

    from kvlab import lesson
    lesson.start("03")                    # last line of its cell: seeds, no gradients, one fixed line
    lm = lesson.model()                   # SmolLM2 (float32, on lesson.device()), else "tiny" with a notice

**Predict, reveal** (ids: two digits, dot, lower-case name; tag the second cell `reveal`)

    lesson.predict("03.speed", "1,024× fewer rows: how much faster is a step?", slider=(1, 2000), unit="×")
    lesson.predict("04.broken", "How many loops are broken?", choices=["one", "two", "three"])
    lesson.reveal("03.speed", 27.3)       # lesson.reveal("04.broken", "three")

**Exercise** 03.1 is one file `exercises/e03_1.py` (≤ 80 lines) beside `solutions/03_1_anything.py`, which
defines the function. The notebook's cell holds the stub; then `lesson.check("03.1", attend_one)` and, tagged
`reveal`, `lesson.solution("03.1")`.

    """03.1: attend with one query."""
    import torch
    from kvlab.lesson.exercise import Draw, Exercise

    EXERCISE = Exercise("03.1", "One query over the cache", function="attend_one", stub="""
    def attend_one(q, keys, values):
        # q: [head_dim], keys and values: [tokens, head_dim] -> [head_dim]
        ...
    """)

    @EXERCISE.inputs
    def inputs(draw: Draw):
        tokens = draw.integer(2, 9)
        return draw.normal(8), draw.normal(tokens, 8), draw.normal(tokens, 8)

    @EXERCISE.alternative                 # correct, written differently from the solution
    def alternative(q, keys, values):
        return torch.einsum("t,td->d", (keys @ q / 8**0.5).softmax(0), values)

    @EXERCISE.mistake("You left out the division by √head_dim: the softmax gets too sharp.")
    def unscaled(q, keys, values):
        return (keys @ q).softmax(0) @ values
    ...                                   # three or more, each with its own message

For a class or several steps add `@EXERCISE.run def run(candidate, *inputs)`, which uses the candidate and
returns what is compared (a list of tensors, say). `Exercise(…, in_place=True)`: the arguments are meant to
change. `tests/test_lesson_exercises.py` finds the file and tries solution, alternative, stub and mistakes.

**Quiz**: `quizzes/q03.py` holds `QUIZ`, three of these, one with `back="01"`; the notebook says
`lesson.quiz("03")`.

    Item("Who attends?", {"the new token": "Its query, yes.", "all": "No: only …"}, answer="the new token")

**Judge claims** (paraphrased), then the measurement (tag `reveal`)

    CLAIMS = {"query": "Only the query of the new token is computed."}
    lesson.judge("03.claims", CLAIMS)
    lesson.judged("03.claims", CLAIMS, {"query": ("false", "its key and value too: without them error 3.6")})

**Figures** return a `Drawing`; leave it as the cell's last line. Write your own in `kvlab/lesson/l03.py`:

    lesson.attention_map(weights, tokens, "layer 26, head 3")           # attention_maps([…], tokens, titles)
    lesson.curves(lengths, [lesson.Line("naive", ms, formula)], x_label="tokens", y_label="ms")
    lesson.bars(names, values, label="bytes a token", theory=formula);  lesson.thumbnails(all_maps)

    @lesson.styled
    def my_figure(values):
        figure, (ax,) = lesson.drawing(6.4, 3, alt="what a blind reader should know")
        ax.plot(values, color=lesson.COLOURS[0]); ax.set_xlabel("tokens"); return figure

`alt` is compared by strict nbval: no digits in it that another machine may measure otherwise.

**Widgets**: a control, what it draws, and the picture for places where nothing runs:

    layer = IntSlider(description="layer", max=29)
    view = lesson.live(lambda layer: lesson.heat_table(maps[layer], tokens, tokens, caption="…"), layer)
    lesson.Exhibit([layer, view], title="Browse layers", picture=lambda: my_figure(maps[0]))

`live` takes a function that returns a `Drawing` or HTML (`heat_table`, `plain_table`, `card(inline(text))`).
Callbacks never print. Slow work: `lesson.on_click(button, work)`. Tables take a few milliseconds; a new
drawing a few hundred, and two to four times less if the same one is changed and returned again:

    figure = my_figure(values[0])
    def draw(i): figure.axes[0].lines[0].set_ydata(values[i]); return figure

**Recorded runs** (`kvlab bench … --out`): `run = lesson.recorded("decode_cpu")`, `run.rows`,
`run.select(batch=1)` (the rows with that), `run.caption`; for a GPU record
`lesson.recorded("gpu-growth", gpu=True)` is false where it is not there, and says how to measure it.

**Package lines**: `lesson.source(kvlab.stores.dynamic.Dynamic, docstring=False)`.

Run a finished notebook with `jupyter nbconvert --to notebook --execute --inplace
--ExecutePreprocessor.store_widget_state=False`, without `KVLAB_WORK` set: stored widget state would take the
picture's place on a code host.
'''

from .checking import Check, check
from .exercise import Draw, Exercise, exercise, exercise_ids
from .figures import Line, attention_map, attention_maps, bars, curves, thumbnails
from .judging import judge, judged
from .listing import solution, source
from .memory import forget
from .predicting import predict, predictions, reveal
from .quizzing import Item, quiz
from .recorded import recorded
from .session import CORE, LESSONS, device, model, start
from .style import COLOURS, Drawing, drawing, styled, token_text
from .tables import card, heat_table, inline, plain_table, token_html
from .widgets import Exhibit, live, note, on_click, picture_html

__all__ = [
    "COLOURS",
    "CORE",
    "LESSONS",
    "Check",
    "Draw",
    "Drawing",
    "Exercise",
    "Exhibit",
    "Item",
    "Line",
    "attention_map",
    "attention_maps",
    "bars",
    "card",
    "check",
    "curves",
    "device",
    "drawing",
    "exercise",
    "exercise_ids",
    "forget",
    "heat_table",
    "inline",
    "judge",
    "judged",
    "live",
    "model",
    "note",
    "on_click",
    "picture_html",
    "plain_table",
    "predict",
    "predictions",
    "quiz",
    "recorded",
    "reveal",
    "solution",
    "source",
    "start",
    "styled",
    "thumbnails",
    "token_html",
    "token_text",
]
