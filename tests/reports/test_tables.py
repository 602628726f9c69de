import math

import numpy as np
import pytest
import torch

from ferkit.reports import comparison_table

ROWS = [
    {"method": "ce", "accuracy": [0.61, 0.63, 0.62], "kl": [1.25, 1.35], "faces": 5000},
    {"method": "dmue", "accuracy": torch.tensor(0.7), "kl": [0.5, math.nan], "faces": 5000},
    {"method": "a|b", "accuracy": [0.5], "kl": None},
]


def test_markdown_text():
    columns = {"method": "method", "accuracy": "accuracy ↑", "kl": "KL ↓ (nats)", "faces": "faces"}
    assert comparison_table(ROWS, columns, digits={"kl": 2}) == "\n".join(
        [
            "| method |    accuracy ↑ |          KL ↓ (nats) | faces |",
            "|--------|--------------:|---------------------:|------:|",
            "| ce     | 0.620 ± 0.010 |          1.30 ± 0.07 |  5000 |",
            "| dmue   |         0.700 | – (1 of 2 undefined) |  5000 |",
            "| a\\|b   |         0.500 |                    – |     – |",
        ]
    )


def test_plain_text():
    assert comparison_table(ROWS[:2], ["method", "accuracy"], style="plain", digits=1) == "\n".join(
        [
            "method   accuracy",
            "------  ---------",
            "ce      0.6 ± 0.0",
            "dmue          0.7",
        ]
    )


def test_columns_line_up():
    lines = comparison_table(ROWS, ["method", "accuracy", "kl", "faces"]).splitlines()
    bars = [[i for i, c in enumerate(line) if c == "|" and line[i - 1] != "\\"] for line in lines]
    assert all(places == bars[0] for places in bars)


def test_no_row_gives_a_heading():
    assert comparison_table([], ["a", "b"], style="plain") == "a  b\n-  -"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "–"),
        ([], "–"),
        (np.float32(0.5), "0.500"),
        (np.array([1.0, 3.0]), "2.000 ± 1.414"),
        (torch.tensor([1, 2]), "1.500 ± 0.707"),
        (True, "True"),
        ((0.25,), "0.250"),
    ],
)
def test_cells(value, text):
    assert comparison_table([{"x": value}], ["x"], style="plain").splitlines()[-1].strip() == text


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="columns: expected at least one column"):
        comparison_table(ROWS, [])
    with pytest.raises(ValueError, match="style: expected one of 'markdown', 'plain', got 'html'"):
        comparison_table(ROWS, ["method"], style="html")
    with pytest.raises(TypeError, match="rows: expected a text, a number or a list of numbers under 'x', got"):
        comparison_table([{"x": {"mean": 1}}], ["x"])
    with pytest.raises(TypeError, match="rows: expected"):
        comparison_table([{"x": ["a", "b"]}], ["x"])
    with pytest.raises(ValueError, match=r"digits\['x'\]: expected a value in"):
        comparison_table([{"x": 1.0}], ["x"], digits=-1)
