"""Settings of the smallest search."""

# The default method and space at the smallest size.
TINY = (
    "channels=2", "depth=1", "epochs=2", "batch_size=10", "random_cells=1", "augmentation.crop=1",
    "train.channels=2", "train.depth=1", "train.epochs=2", "train.batch_size=20", "train.augmentation.crop=1",
)  # fmt: skip
