"""What the published code decoded, as recorded in tests/golden."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

# Each setting was recorded for a prompt of 9 tokens and one of 24; in tests they share a batch.
CAD = [(f"cad/{number}", f"cad/{number + 7}") for number in range(7)]
FIXED = [(f"fixed/9_{number}", f"fixed/24_{number}") for number in range(4)]

Case = dict[str, Any]
"""Settings, prompt and what came of them."""


def load(golden: pathlib.Path) -> dict[str, Case]:
    """All recordings by name."""
    described = {case["case"]: case for case in json.loads((golden / "decoding.json").read_text())}
    with np.load(golden / "decoding.npz") as arrays:
        for name in arrays.files:
            case, _, part = name.rpartition("/")
            if case in described:
                described[case][part] = arrays[name].tolist()
    return described
