"""Detection and recognition as a user runs them: what a run leaves, that it resumes, and what predict says."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import refused

from jnas import exported
from jnas.cli.main import main
from jnas.data.detection.datasets import load_detection
from jnas.recipes import trainer
from jnas.recipes.tasks import detect
from jnas.recipes.tasks.settings import TrainDetector
from jnas.train.hooks import Hook

LAYER, SPACE = "chain:nor_conv_1x1", "space=chain-1:skip_connect,nor_conv_1x1"
SMALL = ("channels=2", "stem=small_image", "train.epochs=2", "steps_per_call=1")
DETECT = (
    *SMALL, "height=16", "width=24", "strides=[4]", "head_channels=8", "head_depth=1", "train.batch_size=4",
    "most_boxes=10", "threshold=0", "augmentation.smallest=1", "augmentation.largest=1",
    "augmentation.colour=0",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes dtypes
        yield


def train(*words):
    return main(["train", LAYER, SPACE, *map(str, words)])


@pytest.fixture(scope="module")
def detector(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "detector"
    assert train("--task", "detection", "--data", photos, *DETECT, "--out", folder) == 0
    return folder


def test_a_run_leaves_network_curves_pictures_and_page(detector, capsys):
    result = json.loads((detector / "result.json").read_text())
    found = result["found"]
    assert set(found["classes"]) == {"disc", "square"}
    assert sum(row["boxes"] for row in found["classes"].values()) > 4
    assert 0 <= found["coco_ap"] <= found["coco_ap50"] <= 1
    assert len(list((detector / "pictures").glob("*.jpg"))) == 4
    log = (detector / "train" / "named" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 7))
    assert {"loss", "class_loss", "box_loss", "quality_loss", "mean_overlap"} <= set(json.loads(log[0]))
    assert list((detector / "train" / "named").glob("events.out.tfevents.*"))
    page = (detector / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "Precision and recall at overlap 0.5" in page
    assert f"{100 * found['voc_ap50']:.1f}" in page
    assert main(["evaluate", str(detector)]) == 0
    assert json.loads(capsys.readouterr().out)["coco_ap"] == found["coco_ap"]


def test_boxes_that_no_place_has_to_find_are_counted(photos):
    """Under a stride of 8 pixels photos of 48 x 32 shrunk to 24 x 16 hold objects of few pixels."""
    settings = {"stem": "small_image", "strides": [4], "head_channels": 8}
    config = TrainDetector(LAYER, str(photos), SPACE.partition("=")[2], height=16, width=24, **settings, channels=2)
    train_on, measured_on = detect.parts(load_detection(photos, detect.frame(config)), "test")
    net = detect.build(config, 2)
    counts = [detect.unreached(net, part) for part in (train_on, measured_on)]
    assert [total for _, total in counts] == [int((part.labels >= 0).sum()) for part in (train_on, measured_on)]
    tiny = dataclasses.replace(train_on, boxes=np.broadcast_to(np.float32([0, 0, 1, 1]), train_on.boxes.shape))
    missed, total = detect.unreached(net, tiny)
    assert missed == total > 0
    assert detect.unreached_words(net, [(0, 9), (0, 3)]) == ""
    assert detect.unreached_words(net, [(missed, total), (0, 3)]).startswith(
        f"{missed} of {total} boxes to train on and 0 of 3 to measure on hold no place of the feature maps, the finest"
    )


def test_a_run_that_fails_and_resumes_ends_in_the_same_bits(detector, photos, tmp_path, monkeypatch):
    words = ("--task", "detection", "--data", photos, *DETECT, "--out", tmp_path / "again")

    def stumble(event):
        if event.step == 5:
            raise RuntimeError("the power is gone")

    hooks = trainer.standard_hooks
    with monkeypatch.context() as patch:
        stumbling = lambda *given, **options: [*hooks(*given, **options), Hook(steps=stumble, every=1)]
        patch.setattr(trainer, "standard_hooks", stumbling)
        with pytest.raises(RuntimeError, match="power"):
            train(*words)
    assert not (tmp_path / "again" / "result.json").exists()
    assert train(*words) == 0
    for name in ("train/named/weights.npz", "train/named/network.json", "at_work.json"):
        assert (tmp_path / "again" / name).read_bytes() == (detector / name).read_bytes(), name
    (tmp_path / "again" / "report.html").unlink()  # as if the power had gone just before it
    assert train(*words) == 0
    assert "Precision and recall" in (tmp_path / "again" / "report.html").read_text()


def test_predict_writes_boxes_in_pixels_of_the_photo(detector, photos, tmp_path, capsys):
    names = [str(photos / "JPEGImages" / f"{i}.jpg") for i in (12, 13)]
    words = ["predict", str(detector), *names, "--threshold", "0", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == names
    boxes = [box for row in rows for box in row["boxes"]]
    assert {box["class"] for box in boxes} <= {"disc", "square"}
    assert max(box["box"][2] for box in boxes) > 24  # beyond the 24 pixels that the network sees
    assert all(0 <= box["box"][0] <= box["box"][2] <= 48 and 0 <= box["score"] <= 1 for box in boxes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["12.jpg", "13.jpg", "predictions.jsonl"]
    written = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [{**row, "picture": f"{i}.jpg"} for i, row in zip((12, 13), rows, strict=True)] == written
    with Image.open(tmp_path / "out" / "12.jpg") as picture:
        assert picture.size == (48, 32)

    # and never in place of what it was asked about
    before = sorted((tmp_path / "out").iterdir())
    assert main(["predict", str(detector), str(tmp_path / "out"), "--out", str(tmp_path / "out")]) == 2
    assert "holds images to ask about, which pictures would replace: name another" in capsys.readouterr().err
    assert sorted((tmp_path / "out").iterdir()) == before

    # the exported file says the same
    assert main(["export", str(detector), "--out", str(tmp_path / "net.jnas")]) == 0
    told = capsys.readouterr()
    assert f"next      jnas predict {tmp_path / 'net.jnas'} IMAGE..." in told.err
    header = json.loads(told.out)
    assert header["input"] == {"shape": ["batch", 16, 24, 3], "dtype": "uint8"}
    assert header["class_names"] == ["disc", "square"]
    assert main(["predict", str(tmp_path / "net.jnas"), *words[2:6]]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_recognition_finds_neighbours(images, tmp_path, capsys):
    folder, dimension = tmp_path / "run", 8
    words = (*SMALL, f"dimension={dimension}", "train.batch_size=20", "augmentation.crop=0", "--out", folder)
    assert train("--task", "recognition", "--data", images, *words) == 0
    result = json.loads((folder / "result.json").read_text())["found"]
    assert 0 < result["map_at_r"] <= result["recall_at_1"] <= 1
    (folder / "report.html").unlink()
    assert train("--task", "recognition", "--data", images, *words) == 0
    assert "recall at 1" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["map_at_r"] == pytest.approx(result["map_at_r"])

    # An image of the gallery is its own nearest neighbour.
    with np.load(images) as arrays:
        Image.fromarray(arrays["x_train"][40]).save(tmp_path / "40.png")
        label = str(int(arrays["y_train"][40]))
    assert main(["predict", str(folder), str(tmp_path / "40.png"), "--top", "3", "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["class"] == label
    assert said["neighbours"][0]["index"] == 40
    assert said["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert len(said["neighbours"]) == 3
    assert (tmp_path / "out" / "40.jpg").is_file()

    assert main(["export", str(folder), "--out", str(tmp_path / "net.jnas")]) == 0
    capsys.readouterr()
    network = exported.load(tmp_path / "net.jnas")
    assert network.gallery["embedding"].shape == (120, dimension)
    assert main(["predict", str(tmp_path / "net.jnas"), str(tmp_path / "40.png"), "--top", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", LAYER, SPACE, "--task", "flying"], "invalid choice: 'flying'"),
        (["train", LAYER, SPACE, "--task", "detection"], "give --data FOLDER"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", "nowhere", "strides=[8]"], "nowhere is not a folder"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", ".", "strides=[8]"], "holds neither"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", "."], "that offers (8, 32)"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", ".", "strides=[8, 64]"], "strides (8, 64)"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", ".", "train.epochs=0"], "epochs is 0"),
        (["train", LAYER, SPACE, "--task", "detection", "--data", ".", "chanels=3"], "did you mean channels?"),
        (["train", LAYER, SPACE, "--task", "recognition", "--data", "nowhere"], "no data set is called 'nowhere'"),
        (["train", LAYER, SPACE, "--task", "recognition", "temperature=0"], "temperature is 0"),
        (["train", "DARTS_V9", "--task", "recognition", "space=darts"], "DARTS_V9"),
        (["predict", "nowhere", "nothing.png"], "nothing.png is no image"),
        (["predict", "nowhere", "."], ". is no image and no folder"),
        (["export", "nowhere", "--out", "x.jnas"], "nowhere is no run"),
        (["export", "nowhere"], "required: --out"),
    ],
)
def test_bad_words(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_a_bad_photo_and_bad_limits(detector, photos, capsys, tmp_path):
    (tmp_path / "torn.jpg").write_bytes((photos / "JPEGImages" / "00.jpg").read_bytes()[:80])
    out = tmp_path / "out"
    assert "torn.jpg cannot be read" in refused(capsys, "predict", detector, tmp_path / "torn.jpg", "--out", out)
    assert not out.exists()
    good = photos / "JPEGImages" / "00.jpg"
    assert "--top is 0" in refused(capsys, "predict", detector, good, "--top", 0)
    assert "--threshold is 2.0" in refused(capsys, "predict", detector, good, "--threshold", 2)
