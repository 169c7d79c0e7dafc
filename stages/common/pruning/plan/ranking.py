"""Groups of channels, and the order in which those of all groups are removed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one, each with all that depends on it.

    Where a grouped convolution reads or makes them, they go in sets of ``channels_each``: one from
    each of its groups.
    """

    name: str
    importance: np.ndarray  # (sets,) float32, comparable between groups
    layers: tuple[str, ...] = ()  # the layers whose output channels they are, by module name
    channels_each: int = 1

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.importance) * self.channels_each


@dataclass(frozen=True)
class Ranking:
    """How channels of different groups compare.

    'global': by their importance. 'uniform' and 'proportional': by their place in their own group,
    so that the groups keep their own most important channels, in the proportions of their present
    widths ('uniform') or in the given ones. Channels at the same place go together, or, with
    ``one_by_one``, the less important first: with few channels and a large rounding an amount is
    then met more nearly.
    """

    allocation: str
    proportions: list[int]  # one a group, for 'proportional'
    one_by_one: bool = False

    def scores(self, groups: list[Group]) -> list[np.ndarray]:
        """One array (channels,) float32 a group; the lowest scores of all groups go first."""
        if self.allocation == "global":
            return [group.importance for group in groups]
        sizes = [len(group.importance) for group in groups]
        proportions = self.proportions if self.allocation == "proportional" else sizes
        places = [
            place_in_group(group.importance) / np.float32(proportion)
            for group, proportion in zip(groups, proportions, strict=True)
        ]
        return one_by_one(places, groups) if self.one_by_one else places


def place_in_group(importance: np.ndarray) -> np.ndarray:
    """-1 for the most important channel, -2 for the next, and so on: (channels,) float32."""
    places = np.argsort(np.argsort(importance, kind="stable"))
    return (places - len(importance)).astype(np.float32)


def one_by_one(scores: list[np.ndarray], groups: list[Group]) -> list[np.ndarray]:
    """The ranks of the scores among all; of equal scores the less important channel's is lower."""
    importance = np.concatenate([group.importance for group in groups])
    order = np.lexsort((importance, np.concatenate(scores)))
    ranks = np.empty(len(order), dtype=np.float32)
    ranks[order] = np.arange(len(order))
    return np.split(ranks, np.cumsum([len(score) for score in scores])[:-1])
