"""The optimiser of trainings beside the search."""

import optax

from jnas.recipes.tasks.settings import Optimisation


def adamw(settings: Optimisation, num_steps: int) -> optax.GradientTransformation:
    """AdamW behind a bound of the gradient's norm, its rate rising linearly and then falling to 0 as a cosine.

    Args:
      settings: rates and bounds.
      num_steps: of the whole training.

    Returns:
      The transformation.

    Reference: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    warmup = min(round(settings.warmup * num_steps), num_steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        settings.learning_rate / 100 if warmup else settings.learning_rate,
        settings.learning_rate,
        warmup,
        num_steps,
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adamw(rate, weight_decay=settings.weight_decay))
