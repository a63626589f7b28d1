"""Looks at the result of the main job as its user would: a genotype, accuracies, a page. Prints what it saw; fails if a
part is missing. Where Chromium is installed the page is opened in it, and with it a page of every kind that the tests
left in a folder, as wide as a telephone and as a desk's screen.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Frames around the pages say how much wider than they each page came out; the pages themselves run no script.
FRAME = """<iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe>"""
SCRIPT = """<p id="said"></p><script>
onload = () => {
  const look = ({contentDocument: page}) => ({
    over: page.documentElement.scrollWidth - page.documentElement.clientWidth, images: page.images.length,
    bare: [...page.images].filter(image => !image.naturalWidth).length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, background: getComputedStyle(page.body).backgroundColor,
  });
  const said = [...document.querySelectorAll("iframe")].map(look);
  document.getElementById("said").textContent = JSON.stringify(said);
};
</script>"""


def open_in_browser(browser: str, pages: list[pathlib.Path], width: int, dark: bool) -> list[dict]:
    """Opens pages, and returns what the frames around them say; what the console says is an error."""
    with tempfile.TemporaryDirectory() as folder:
        frame = pathlib.Path(folder, "frame.html")
        frames = (FRAME.format(page=page.resolve().as_uri(), width=width) for page in pages)
        frame.write_text("".join(frames) + SCRIPT)
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={max(width, 800)},1000",
            "--dump-dom", frame.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not console, console
    found = re.search(r'<p id="said">(\[.*?\])</p>', done.stdout)
    assert found, f"the pages did not load: {done.stderr[-2000:]}"
    return json.loads(found[1])


def pages_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Of the pages that the tests left, the largest of every title with the same parts; without those of damaged files,
    whose pictures are made up.
    """
    kinds = {}
    pages = (page for page in folder.rglob("*.html") if not any("damaged" in part for part in page.parts))
    for page in sorted(pages, key=lambda page: page.stat().st_size):
        title, *parts = re.findall(r'<h1>(.*?)(?: on .*)?</h1>|<section id="(\w+)"', page.read_text(encoding="utf-8"))
        kinds[(title, *parts)] = page
    return list(kinds.values())


def look_at_pages(pages: list[pathlib.Path]) -> None:
    """Light and dark, 360 pixels wide and 1,200."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium here: the pages were not opened")
        return
    looks = {}
    for width in (360, 1200):
        for dark in (False, True):
            every = open_in_browser(browser, pages, width, dark)
            for page, said in zip(pages, every, strict=True):
                assert said["over"] <= 0, f"{page} is {said['over']} pixels wider than its window of {width}"
                assert not said["bare"], (page, said)
                assert said["dark"] == dark, (page, said)
                looks.setdefault(page, {})[dark] = said["background"]
            assert every[0]["images"] > 0, every[0]
            print(f"{len(pages)} pages, {width} pixels, {'dark' if dark else 'light'}, the first: {every[0]}")
    assert all(look[False] != look[True] for look in looks.values()), looks


def look_at_run(run: pathlib.Path) -> None:
    """The files of the main job."""
    result = json.loads((run / "result.json").read_text())
    page = (run / "report.html").read_text()
    steps = [json.loads(line)["step"] for line in (run / "search" / "metrics.jsonl").read_text().splitlines()]
    epochs = [json.loads(line) for line in (run / "search" / "genotypes.jsonl").read_text().splitlines()]
    assert steps == list(range(1, result["steps"] + 1)), "the log has a gap or a repeat"
    assert epochs[-1]["genotype"] == result["genotype"]
    assert result["found"]["test_accuracy"] > 0.3, "no better than guessing"
    assert result["found"]["epochs"] == 12
    assert result["data"]["test"] == 10_000
    assert len(result["random"]) >= 1, "no random cell beside it"
    known = result["reference"]["cells"]
    chance = [row["test_accuracy"] for row in known if row["kind"] == "random"]
    assert len(chance) >= 60, "the table of cells trained in advance is not of these settings and data"
    assert result["found"]["test_accuracy"] > sum(chance) / len(chance), "no better than the mean of random cells"
    assert result["method"] == "simultaneous, single_loop, momentum moving_average"
    assert page.count("<svg") + page.count("image/svg+xml") >= 4
    assert "95 % interval" in page
    assert "What next" in page
    assert "</html>" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    random = [other["test_accuracy"] for other in result["random"]]
    print(result["genotype"], result["found"]["test_accuracy"], "against", random, "and", sum(chance) / len(chance))


if __name__ == "__main__":
    run, *tests = map(pathlib.Path, sys.argv[1:])
    look_at_run(run)
    look_at_pages([run / "report.html", *(page for folder in tests for page in pages_below(folder))])
