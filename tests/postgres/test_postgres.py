"""Four processes on one study in a PostgreSQL database; one is killed with SIGKILL in the middle of a trial."""

import pytest
from trial_worker import CHOICES, check_nothing_lost, run_and_kill_one

from jnas.errors import UserError
from jnas.study.storage import close_study, open_study


def test_four_processes_share_a_database_and_one_is_killed(postgres, tmp_path):
    hung = run_and_kill_one(postgres, tmp_path, num_workers=4, num_evaluations=40)
    check_nothing_lost(postgres, tmp_path, 40, hung)


def test_another_search_of_the_same_name_is_refused(postgres):
    close_study(open_study(postgres, name="other", choices=CHOICES))
    with pytest.raises(UserError, match="its choices differ"):
        open_study(postgres, name="other", choices=CHOICES[:1])


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(
        UserError, match=r"^postgresql.*//\*\*\*@127.0.0.1:9/x cannot hold a study .*: check the address"
    ):
        open_study("postgresql+psycopg://ann:secret@127.0.0.1:9/x")
