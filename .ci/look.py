"""Looks at the result of the main job as its user would: a genotype, accuracies, a page. Prints what it saw; fails if a
part is missing.
"""

import json
import pathlib
import sys

run = pathlib.Path(sys.argv[1])
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
assert "</html>" in page
assert "http://" not in page.replace("http://www.w3.org", "")
assert "https://" not in page
random = [other["test_accuracy"] for other in result["random"]]
print(result["genotype"], result["found"]["test_accuracy"], "against", random, "and", sum(chance) / len(chance))
