"""Whatever happens to a file that jnas reads, the command ends soon in success or in one sentence and status 2."""

import json
import os
import pathlib
import threading
import time

NUMBER = int(os.environ.get("JNAS_FUZZ", "320"))  # of damaged files; give thousands for a longer search
LONGEST, MOST = 60, 2**31  # seconds of one input, bytes that the process may grow by


def test_every_damaged_file_ends_in_success_or_in_one_sentence(start_script, tmp_path):
    process = start_script("import fuzzing\nfuzzing.run()", tmp_path, NUMBER)
    lines = []
    reader = threading.Thread(target=lambda: [lines.append(json.loads(line)) for line in process.stdout])
    reader.start()
    size = lambda: int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seen, since, first, fault = 0, time.monotonic(), None, None
    while process.poll() is None and not fault:
        if seen < len(lines):
            seen, since = len(lines), time.monotonic()
            first = first or size()  # with everything loaded: the first line comes after all that is whole was read
        elif time.monotonic() > since + LONGEST:
            fault = f"takes more than {LONGEST} s"
        elif first and size() > first + MOST:
            fault = f"takes more than {MOST:,} bytes"
        time.sleep(0.02)
    process.kill()
    reader.join()
    assert lines, process.stderr.read()
    assert (fault or process.wait()) == 0, f"{lines[-1]} {process.stderr.read()}"
    ended = [line for line in lines if len(line) == 4]
    wrong = [line for line in ended if line[3] is not None]
    assert not wrong, "\n\n".join(f"{number}, {name}: {said}" for number, name, _, said in wrong)
    refused = sum(status == 2 for _, _, status, _ in ended)
    assert NUMBER // 5 < refused < NUMBER == len(ended)  # the damage is such that both happen
