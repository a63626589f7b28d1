"""What the command `jnas select` does, as a function."""

import dataclasses
import os
from typing import Any

from jnas.files.urls import masked
from jnas.recipes import commands, config
from jnas.recipes.folders import folder_of
from jnas.recipes.zoo import selection
from jnas.recipes.zoo.settings import Selection


def select_network(
    data: Any, *layers: commands.Layer, zoo: str, out: str | os.PathLike[str] | None = None, **settings: Any
) -> commands.Run:
    """Chooses a network of a zoo for new data, fine-tunes it and writes the page: `jnas select`.

    ```
    run = jnas.select_network("photos", zoo="zoo", image_size=32, target_accuracy=0.9, max_params=0.5)
    print(run.metrics, run.predict(images)["probability"])
    ```

    Args:
      data: the new data, a name or a value as of `search_architecture`.
      *layers: YAML files and `"key=value"`, the later over the earlier.
      zoo: a folder, or a URL, behind which no record is kept.
      out: folder of the run, which an unfinished one goes on in; None: one named after the data, in `runs`.
      **settings: over all layers, see `Selection`: limits, `target_accuracy`, `budget` in seconds, and what is tried.

    Returns:
      The run, whose network is the one that was chosen, and whose `metrics` are those of the test images.

    Raises:
      UserError: for settings that do not fit each other, the data, the zoo, or limits that no network keeps.
      Diverged: if every fine-tuning did.
      Interrupted: as `driver.run`.
    """
    asked = config.build(Selection, *commands.settings_of({"data": data, "zoo": zoo}, *layers, settings))
    # A password in a URL stays out of the name of the folder.
    folder = folder_of(out, dataclasses.replace(asked, zoo=masked(asked.zoo)), selection.KIND, selection.KIND)
    return commands.Asked(selection, asked, selection.KIND, (selection.KIND,), {}).run(folder)
