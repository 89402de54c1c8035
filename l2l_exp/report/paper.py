"""Points of published figures, to be drawn beside one's own.

Source: M. Andrychowicz et al., Learning to learn by gradient descent by gradient descent, NeurIPS
2016, arXiv:1606.04474v2, figure 4; digitised from its pictures, since there are no tables of them.
The paper's curves are means over test problems.
"""

from types import MappingProxyType
from typing import Final, NamedTuple


class Digitised(NamedTuple):
    """Curves that were read off a figure.

    Attributes:
        what: which figure, and how exactly it could be read.
        data: the data set, as `summary["data"]` names it; None where there is none.
        steps: inner steps of the points.
        losses: rule -> mean loss at each step.
    """

    what: str
    data: str | None
    steps: tuple[int, ...]
    losses: MappingProxyType[str, tuple[float, ...]]


FIGURES: Final = MappingProxyType(
    {
        "fig4_quadratic": Digitised(
            "figure 4, left, digitised to about 5 %",
            None,
            (10, 20, 30, 40, 50, 60, 80, 100),
            MappingProxyType(
                {
                    "learned": (0.27, 0.153, 0.107, 0.081, 0.066, 0.057, 0.045, 0.040),
                    "adam": (6.8, 2.1, 0.73, 0.41, 0.16, 0.10, 0.059, 0.052),
                    "rmsprop": (1.5, 0.65, 0.30, 0.17, 0.12, 0.093, 0.071, 0.059),
                    "nag": (0.33, 0.20, 0.148, 0.126, 0.112, 0.102, 0.089, 0.081),
                    "sgd": (0.59, 0.45, 0.37, 0.33, 0.30, 0.275, 0.24, 0.22),
                }
            ),
        ),
        "fig4_mlp": Digitised(
            "figure 4, centre and right, digitised to about 3 %",
            "mnist",
            (10, 20, 40, 60, 80, 100, 150, 200),
            MappingProxyType(
                {
                    "learned": (0.75, 0.46, 0.33, 0.29, 0.26, 0.253, 0.222, 0.21),
                    "adam": (2.3, 1.48, 0.61, 0.45, 0.40, 0.356, 0.328, 0.307),
                    "rmsprop": (2.30, 1.74, 0.64, 0.44, 0.39, 0.361, 0.312, 0.288),
                    "nag": (2.26, 1.48, 0.56, 0.42, 0.36, 0.326, 0.288, 0.257),
                    "sgd": (2.3, 1.94, 1.04, 0.71, 0.55, 0.462, 0.373, 0.325),
                }
            ),
        ),
    }
)


def figure(name: str) -> Digitised:
    """The points of a published figure.

    Args:
        name: one of FIGURES.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in FIGURES:
        raise ValueError(f"paper={name} must be one of {', '.join(FIGURES)}")
    return FIGURES[name]
