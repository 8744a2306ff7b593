"""The table of `benchmarks/cool.py`: a ratio above 1.01 is a miss, and every problem has a rate."""

import pytest
from cool import SEEDS, WAYS, row
from cool_problems import FRESH, JUDGES, OTHERS, RATES


@pytest.mark.parametrize(
    ("ours", "ratio", "verdict"), [(1.008, "1.008", ""), (1.012, "1.012", "miss"), (float("nan"), "nan", "miss")]
)
def test_a_ratio_above_the_allowed_one_is_a_miss(ours: float, ratio: str, verdict: str) -> None:
    ends = dict(zip(WAYS, (1.1, 1.0, 1.2, ours), strict=True))
    found = {f"river: {way}, {seed}": {"loss": loss, "decisions": []} for way, loss in ends.items() for seed in SEEDS}
    found["river: cool auto, 0"]["decisions"] = [{"spent": 0.9}, {"spent": 1.8}]
    cells = [cell.strip() for cell in row("river", found).split("|")]
    assert cells[7:-1] == ["cosine", f"{ratio} [{ratio}, {ratio}]", ", ".join(3 * [ratio]), "0.60", verdict]


def test_every_problem_has_its_rate() -> None:
    assert RATES.keys() == (JUDGES | OTHERS | FRESH).keys()


def test_the_interval_of_a_ratio_is_over_the_paired_seeds() -> None:
    ends = {"linear": (1.1, 1.1, 1.1), "cosine": (1.0, 1.2, 1.4), "plateau": (2, 2, 2), "cool auto": (1.1, 1.1, 1.1)}
    found = {f"river: {way}, {k}": {"loss": loss, "decisions": []} for way in WAYS for k, loss in enumerate(ends[way])}
    assert "1.000 [1.000, 1.000]" in row("river", found)
    found |= {f"river: cool auto, {k}": {"loss": loss, "decisions": []} for k, loss in enumerate((1.0, 1.1, 1.2))}
    assert "1.000 [0.847, 1.153]" in row("river", found)  # 2.92 · 0.1 / √3 / 1.1
