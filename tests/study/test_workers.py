"""Several processes on one study in a file; one is killed with SIGKILL in the middle of a trial."""

from trial_worker import check_nothing_lost, run_and_kill_one


def test_two_processes_share_a_file_and_one_is_killed(tmp_path):
    storage = str(tmp_path / "journal.log")
    hung = run_and_kill_one(storage, tmp_path, num_workers=2, num_evaluations=24)
    check_nothing_lost(storage, tmp_path, 24, hung)
