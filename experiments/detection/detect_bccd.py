"""Trains the detector of `jnas train --task detection` on photos of blood cells, and measures average precision.

Command:  python experiments/detection/detect_bccd.py FOLDER [--all] [--out DIR] [key=value ...]
Needs:    FOLDER with the blood cell data set BCCD in its VOC layout (github.com/Shenggan/BCCD_Dataset, MIT licence):
          364 photos of 640x480, 4,888 boxes of red cells, white cells and platelets, and its lists of 205 training, 87
          validation and 72 test photos. Two boxes without width or height are dropped.

The backbone is the cell DARTS_V2 at 16 channels, three cells, from random weights; `genotype=... space=...` takes
another one, such as what a search found. Photos are halved to 320x240. Trained on the training photos, measured on the
validation photos and once on the test photos; with `--all` trained on both of the former and measured on the test
photos. A run that was stopped goes on when the same command is given again. The page DIR/report.html shows curves and
photos with the boxes found, DIR/pictures these photos alone.

Measured on one core of an AMD EPYC, shared with other work: 30 epochs (750 steps of 8 photos) take 231 s of CPU time,
compilation and evaluation included. One seed, 0. 87,619 parameters. These settings are the first that were tried; the
test photos chose nothing. Average precision in %:

                            validation (87 photos)      test (72 photos)
    at 0.5, all points      86.6                        84.5
      platelets             78.0                        74.0
      red cells             82.5                        82.4
      white cells           99.2                        97.0
    at 0.5, COCO            86.3                        84.2
    at .5 to .95, COCO      49.9                        48.5

A small network, trained from nothing in minutes; it was compared with no other detector. Some red cells of the photos
carry no box in the annotation, so that some of what counts as a false alarm is a cell.
"""

import argparse
import json
import pathlib

from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import config, driver, models
from jnas.recipes.tasks import detect, measure, training
from jnas.recipes.tasks.settings import TrainDetector

RESULTS = pathlib.Path(__file__).with_name("detect_bccd.jsonl")
SETTINGS = {
    "genotype": "DARTS_V2", "space": "darts", "channels": 16, "depth": 3,
    # under a microscope no side is up
    "augmentation": {"upright": False}, "train": {"epochs": 30},
}  # fmt: skip
FIGURES = ("voc_ap50", "coco_ap50", "coco_ap", "classes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the data set")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the figures")
    parser.add_argument("--all", action="store_true", help="train on the validation photos too")
    parser.add_argument("--out", help="folder of the run (runs/detect-bccd or runs/detect-bccd-all)")
    parser.add_argument("--results", default=RESULTS, help="file that gets one JSON line a run")
    arguments = parser.parse_args()
    given = {"data": arguments.folder, "held_out": "test" if arguments.all else "validation"}
    settings = config.build(TrainDetector, SETTINGS, given, config.read_words(arguments.words))
    out = pathlib.Path(arguments.out or f"runs/detect-bccd{'-all' if arguments.all else ''}")
    enable_compilation_cache()
    found = driver.run(training.of(detect), settings, out)["found"]
    seen = {found["measured_on"]: {name: found[name] for name in FIGURES}}
    if not arguments.all:
        tested = measure.of_folder(models.network_folder(out), arguments.folder, "test")
        seen["test"] = {name: tested[name] for name in FIGURES}
    line = {
        "words": arguments.words, **seen, "trained_on": "train and validation" if arguments.all else "train",
        "parameters": found["parameters"], "epochs": found["epochs"], "seed": found["seed"],
        "seconds": found["seconds"], "genotype": settings.genotype, "space": settings.space,
    }  # fmt: skip
    print(json.dumps(line))
    print(f"pictures: {out / 'pictures'}, page: {out / 'report.html'}")
    path = pathlib.Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or json.dumps(line) not in path.read_text().splitlines():  # a finished run shown again
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
