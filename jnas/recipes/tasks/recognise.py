"""Recognition with a found network: an embedding in which the nearest neighbours of an image are of its class."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, distributed, files, report
from jnas.nets.embedding import Embedder
from jnas.recipes import run_folder, train_network
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.tasks.retrieval import nearest, retrieval
from jnas.recipes.tasks.settings import TrainEmbedding
from jnas.recipes.tasks.training import Plan, backbone_of, facts_of
from jnas.train.weights import load_tree, save_tree
from jnas.types import Array, Aux, Context, Examples, Loss, PyTree

TASK: str = "recognition"
SHOWN: tuple[str, ...] = ("loss", "accuracy")
GALLERY = "gallery.npz"
PICTURES, NEIGHBOURS = 6, 5  # queries that the report shows, and neighbours of each


def plan(config: TrainEmbedding) -> Plan:
    """An embedding, its images and its loss, see `training.Plan`; the training images are the gallery.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    splits = run_folder.load_data(config.data, config.image_size)
    embedder = build(config, splits.train.num_classes)
    augment = config.augmentation.of(splits.train)

    def measure(weights: PyTree, run: pathlib.Path, network: pathlib.Path) -> dict[str, Any]:
        gallery, queries = (embed_all(embedder, weights, part, augment) for part in splits)
        measured = retrieval(queries, splits.test.labels, gallery, splits.train.labels)
        kept = {"embedding": gallery, "label": splits.train.labels}
        distributed.from_first(lambda: save_tree(network / GALLERY, kept))
        distributed.from_first(lambda: show(run, splits, gallery, queries, measured))
        return measured

    return Plan(
        embedder,
        loss_of(embedder, config.temperature),
        data.supervised_source(splits.train, batch_size=config.train.batch_size, augment=augment),
        splits.train,
        facts_of(TASK, config, splits.train, augment) | {"gallery": len(splits.train)},
        train_network.describe(splits),
        measure,
    )


def build(config: TrainEmbedding, num_classes: int) -> Embedder:
    """The embedder that the settings describe.

    Raises:
      ValueError: for settings that do not fit each other.
    """
    return Embedder(backbone_of(config).net, num_classes, config.dimension)


def loss_of(embedder: Embedder, temperature: float) -> Loss:
    """Cross-entropy of the cosines with the classes' directions over `temperature`; its alpha is the empty pytree."""

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        output, updated = embedder.apply(
            {"params": weights, "batch_stats": context.variables}, batch.image, train=True, mutable=["batch_stats"]
        )
        cosine = output.cosine  # pyright: ignore[reportAttributeAccessIssue]
        value = cross_entropy(cosine / temperature, batch.label)
        return value, Aux(updated["batch_stats"], {"accuracy": accuracy(cosine, batch.label)})

    return loss


def embed_all(
    embedder: Embedder, weights: PyTree, dataset: data.Dataset, augment: data.Augment, *, batch_size: int = 250
) -> np.ndarray:
    """The embedding of every image, `[num_examples, dimension]` float32."""

    @jax.jit
    def embed(weights, rows):
        output: Any = embedder.apply(weights, data.augment(augment, None, rows, dataset.shape), train=False)
        return output.embedding

    batches = data.padded(dataset, min(batch_size, len(dataset))).images
    return np.concatenate([np.asarray(embed(weights, jnp.asarray(rows))) for rows in batches])[: len(dataset)]


def read_gallery(folder: pathlib.Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """The images of the gallery as their embeddings and labels.

    Args:
      folder: of the network.
      facts: its `network.json`.

    Returns:
      `{"embedding": [num_gallery, dimension] float32, "label": [num_gallery] int32}`.

    Raises:
      UserError: if the file is absent or damaged.
    """
    shapes = {
        "embedding": jax.ShapeDtypeStruct((facts["gallery"], facts["settings"]["dimension"]), jnp.float32),
        "label": jax.ShapeDtypeStruct((facts["gallery"],), jnp.int32),
    }
    return {name: np.asarray(value) for name, value in load_tree(folder / GALLERY, shapes).items()}


def show(
    folder: pathlib.Path, splits: data.Splits, gallery: np.ndarray, queries: np.ndarray, measured: dict[str, float]
) -> None:
    """Write what the report draws: the figures, and some queries beside their neighbours."""
    train, test = splits
    names = train.class_names or tuple(map(str, range(train.num_classes)))
    place = files.prepare_folder(folder / "pictures")
    chosen = np.unique(np.linspace(0, len(test) - 1, PICTURES).astype(int))
    pictures = []
    for row in chosen.tolist():
        index, similarity = (part[0] for part in nearest(queries[row : row + 1], gallery, min(NEIGHBOURS, len(train))))
        images = [test.images[row], *train.images[index]]
        words = [names[test.labels[row]]]
        words += [f"{names[train.labels[i]]} {s:.2f}" for i, s in zip(index, similarity, strict=True)]
        content = report.row_picture([pixels.reshape(train.shape) for pixels in images], words)
        files.atomic_write(place / f"query-{row}.jpg", content)
        hits = int((train.labels[index] == test.labels[row]).sum())
        pictures.append({
            "file": f"pictures/query-{row}.jpg",
            "caption": f"Test image {row} ({words[0]}) and its {len(index)} nearest in the gallery: {hits} of it",
        })  # fmt: skip
    run_folder.write_json(
        folder / report.AT_WORK,
        {"task": TASK, "queries": len(test), "gallery": len(train), "measured": measured, "pictures": pictures},
    )
