"""The curvature of a batch along its own gradient, by the way that fits the model."""

from gradiometer.measurement.slopes import OwnCurvature, own_curvature
from gradiometer.measurement.step import TrainingStep


def gradient_curvature(step: TrainingStep, *, preconditioned: bool = False) -> OwnCurvature | None:
    """ĝᵀH_Bĝ and ‖ĝ‖² of the batch of a step, or ûᵀH_Bû and ĝᵀû with û = P ĝ; None if P is not
    known yet.

    It is a product with the Hessian up to half a million parameters, on several processes, and
    where the loss bends or is below single precision. Elsewhere it is a difference of slopes, which
    holds one copy of the parameters.

    Args:
        step: The step at hand.
        preconditioned: True for the direction of the optimizer's update.
    """
    if not step.may_hold_graph:
        used = step.preconditioner_to_use_up() if preconditioned else None
        if preconditioned and used is None:
            return None
        found = own_curvature(step.objective, step.batch, used, seed=step.seed_for("graph"))
        if found is not None:
            return found
    factors = step.preconditioner if preconditioned else None
    if preconditioned and factors is None:
        return None
    gradient = direction = step.graph_gradient
    if factors is not None:
        direction = [
            (factor * one).to(one.dtype)  # P may be beyond half precision where P ĝ is not
            for factor, one in zip(factors, gradient, strict=True)
        ]
    along = step.product_of(direction, step.graph.product(direction))
    return OwnCurvature(along, step.product_of(gradient, direction))
