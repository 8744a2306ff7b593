"""The problems of the laboratory, each under the name of its entry point. Nothing here imports
torch: names of problems and models are listed without it."""

from gradiometer.problems.registry import Shipped

LINEAR_REGRESSION = Shipped(
    "gradiometer_lab.closed_forms.linear_regression", ("slopes",), frozenset({"seed"})
)
LOGISTIC_REGRESSION = Shipped("gradiometer_lab.closed_forms.logistic_regression", ("weights",))
ONE_DIMENSIONAL = Shipped(
    "gradiometer_lab.closed_forms.one_dimensional", ("position",), frozenset({"seed"})
)
QUADRATIC = Shipped("gradiometer_lab.closed_forms.quadratic", ("position",), frozenset({"seed"}))
COUNTEREXAMPLE = Shipped(
    "gradiometer_lab.counterexamples",
    (
        "arctangent",
        "softplus",
        "saddle",
        "mirrored",
        "two-cycle",
        "winding",
        "ring",
        "dead-unit",
    ),
    frozenset({"seed"}),
)
DOUBLE_WELL = Shipped("gradiometer_lab.closed_forms.double_well", ("walker",), frozenset({"seed"}))
