"""The lines that `make quick` prints while it runs and when it is done."""

import io

import pytest

from stages.tools.quick_run import as_minutes, closing_screen, progress, seconds_left

STAGES = ["validate_params", "prepare", "train", "export@base"]
SAID = """Stage 'validate_params' didn't change, skipping
Running stage 'prepare':
> python -m stages.prepare
a line of the stage
Stage 'train' is cached - skipping run, checking out outputs
Running stage 'export@base':
"""
TABLE = """| variant | accuracy | OpenCV DNN |
| --- | ---: | ---: |
| base | 94.23 % | 0.39 ms, 1.00 [1.00, 1.00] |
| pruned_int8 | 9.01 % | 0.14 ms, 0.37 [0.36, 0.38] |

Notes that belong on the page of results.
"""


def test_each_stage_is_one_line_with_its_place_and_the_log_has_everything():
    log = io.StringIO()
    lines = list(progress(SAID.splitlines(keepends=True), STAGES, log))
    places = [f"stage  {place} of 4: {name} " for place, name in enumerate(STAGES, start=1)]
    assert all(map(str.startswith, lines, places))
    assert len(lines) == len(STAGES)
    assert all(line.endswith(" minutes left") for line in lines)
    assert log.getvalue() == SAID


def test_a_stage_that_is_named_twice_counts_once():
    twice = ["Running stage 'prepare':\n", "Stage 'prepare' is cached\n"]
    assert len(list(progress(twice, STAGES, io.StringIO()))) == 1


def test_a_slow_machine_has_longer_to_go():
    fast = seconds_left(STAGES, done=STAGES[:2], elapsed=5)
    slow = seconds_left(STAGES, done=STAGES[:2], elapsed=500)
    assert fast < slow
    assert seconds_left(STAGES, done=STAGES, elapsed=5) == 0


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05")])
def test_seconds_as_minutes(seconds, said):
    assert as_minutes(seconds) == f"{said} minutes"


def test_the_end_is_one_screen_with_the_table_the_pictures_and_the_next_command():
    screen = closing_screen(TABLE, "build/quick")
    head, base, pruned = screen.splitlines()[1:4]
    assert head == "variant      accuracy     OpenCV DNN"
    assert base == "base          94.23 %  0.39 ms, 1.00"
    assert pruned == "pruned_int8    9.01 %  0.14 ms, 0.37"
    assert "build/quick/plots/pareto.png" in screen
    assert "dvc repro" in screen
    assert "Notes" not in screen
    assert len(screen.splitlines()) <= 24
