"""An embedding of images on the features of a network: images of one class come to lie close together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.chain import FoundNetwork
from jnas.nets.layers import Linear, fan_in_uniform
from jnas.spaces.networks import NetworkSpace


class Embedding(NamedTuple):
    """Where images lie on the unit sphere."""

    embedding: jax.Array  # [batch, dimension] float32, of length 1
    cosine: jax.Array  # [batch, num_classes] float32 in [-1, 1]: with the direction learned for each class


class Embedder(nn.Module):
    """Average of the coarsest feature map, a linear layer, and the projection to the unit sphere.

    Trained with one direction a class, which stands for all its images; afterwards the embedding alone is used, on
    classes that were not trained as well.

    Attributes:
      backbone: gives the features; its classifier is left out.
      num_classes: of the training images.
      dimension: of the embedding.

    Reference: Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC 2019.
    """

    backbone: FoundNetwork
    num_classes: int
    dimension: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 1 or self.dimension < 1:
            raise ValueError(f"num_classes {self.num_classes}, dimension {self.dimension}: use at least 1 of each.")

    @property
    def space(self) -> NetworkSpace:
        """Of the backbone."""
        return self.backbone.space

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool, drop_path: jax.Array | float = 0.0) -> Embedding:
        """Embeds images.

        Args:
          image: `[batch, height, width, any]` float, normalised.
          train: normalise by the batch and update the running statistics.
          drop_path: see `Network`.

        Returns:
          The embedding.
        """
        states = self.backbone(image, train=train, drop_path=drop_path, features=True)
        features = nn.relu(states[self.backbone.strides[-1]]).astype(jnp.float32).mean((1, 2))
        embedding = _on_sphere(Linear(self.dimension, name="project")(features))
        directions = self.param("kernel", fan_in_uniform, (self.dimension, self.num_classes))
        return Embedding(embedding, embedding @ _on_sphere(directions.T).T)


def _on_sphere(vectors: jax.Array) -> jax.Array:
    # The square root of 0 has no derivative: a feature that is 0 everywhere must not end a training.
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, -1, keepdims=True) + 1e-12)
