"""What the loss is: the settings of its terms, and which of its values compare over a run."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cd4lm_jax.corruption.views import States
from cd4lm_jax.distillation.divergence import Divergence, ForwardKL

Teaching = Literal["none", "frozen", "average"]
"""Who teaches: nobody, a model that never changes, or the student's moving average."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings of the loss (CD4LM, 2601.02236, section 3.2); the defaults are published.

    Attributes:
        divergence: from the teacher's distribution to the student's; "KL" below.
        temperature: softens both distributions in the KL term, which is scaled by its square.
        visible: what is learned where the teacher is shown the token that the student must
            predict. `teacher` (published): the teacher's output there, which masked-diffusion
            training never shaped. `text`: the token itself, so that KL counts only where the
            teacher predicts too and cross-entropy has its full weight elsewhere.
        confidence: KL is weighted by the teacher's greatest probability to this power, and the text
            by the rest: where the teacher is uncertain, the text is learned (after CForce,
            2608.13925). 0 weights all positions alike, as published.
        entropy_weight: of entropy regularisation: the entropy (nats) of positions whose best token
            is right is added to the loss. The student's confidence rises where it is right, so that
            a confidence rule commits earlier (dParallel, 2509.26488). Published DSCD has none.
        clamp: reproduce the published clamp of both terms to [0, 5].

    Raises:
        ValueError: a number out of its range, or a clamp of terms that are not the published ones.
    """

    divergence: Divergence = ForwardKL()
    temperature: float = 2.0
    visible: Literal["teacher", "text"] = "teacher"
    confidence: float = 0.0
    entropy_weight: float = 0.0
    clamp: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"objective.temperature={self.temperature} must be above 0; 1 leaves the "
                "distributions as they are, the paper's recipe uses 2"
            )
        for name in ("confidence", "entropy_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"objective.{name}={getattr(self, name)}; give 0 (off) or more")
        plain = dataclasses.replace(self, clamp=False) if self.clamp else None
        if plain and plain != Objective(temperature=self.temperature):
            raise ValueError(
                f"objective.clamp bounds the published terms, which {plain} changes; leave all but "
                "temperature at their defaults, or give no clamp"
            )

    def comparable(self, states: States, teaching: Teaching) -> tuple[str, ...]:
        """The validation losses by which steps of one run can be ranked.

        They are measured on validation views, which never change, at the final lambda. A teacher
        that moves changes what the KL term measures. Where the validation views are not of the kind
        that is trained on, no loss says how well the student does what it is trained for: on a
        policy's own states, text cross-entropy may rise while decodes improve.

        Args:
            states: what is trained on.
            teaching: who teaches.

        Returns:
            Names among `loss`, `kl` and `ce`.
        """
        if not states.representative:
            return ()
        return {"none": ("loss", "ce"), "frozen": ("loss", "kl", "ce"), "average": ("ce",)}[
            teaching
        ]
