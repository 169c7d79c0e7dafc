"""Several seeds: the lists that params may hold, their spread, a paired difference."""

from dataclasses import dataclass

import pytest

from stages.common.core.cli import InputError
from stages.common.core.params import parse_section
from stages.common.measuring.seeds import paired_difference, seeds, spread


@dataclass(frozen=True)
class Section:
    seeds: list = seeds()


def test_the_deviation_is_that_of_a_sample():
    assert spread([90.0, 92.0, 94.0]) == {"mean": 92.0, "std": 2.0, "n": 3}


def test_a_difference_is_paired_by_seed():
    """A shift that the seeds cause in both alike does not widen the interval."""
    lead = paired_difference([70.0, 80.0, 90.0], [68.0, 77.0, 86.0])  # 2, 3, 4
    assert lead["points"] == 3.0
    assert lead["std"] == 1.0
    half = 4.303 / 3**0.5  # t of 2 degrees of freedom
    assert lead["low"] == pytest.approx(3 - half, abs=1e-3)
    assert lead["high"] == pytest.approx(3 + half, abs=1e-3)
    assert paired_difference([1.0, 2.0], [3.0, 4.0])["points"] == -2.0


def test_values_of_different_numbers_of_seeds_are_not_paired():
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize("value", [[0, 1], list(range(10))], ids=str)
def test_two_to_ten_different_seeds_are_accepted(value):
    assert parse_section(Section, {"one": {"seeds": value}}, "one", "p").seeds == value


@pytest.mark.parametrize(
    "value", [[0], [], 3, [0, 0], [0, -1], [0, 1.0], [False, True], list(range(11))], ids=str
)
def test_other_seeds_are_refused_by_name(value):
    with pytest.raises(InputError, match=r"one\.seeds is .*2 to 10 different whole numbers"):
        parse_section(Section, {"one": {"seeds": value}}, "one", "p")
