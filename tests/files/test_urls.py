"""What is hidden of addresses, and how names from outside are printed."""

import pytest

from jnas.files.urls import masked, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://ann:se@cret@host/x", "postgresql+psycopg://***@host/x"),
        ("postgresql://ann:my pass@host:5432/x", "postgresql://***@host:5432/x"),
        ("postgresql://ann:se/cr?et@host/x?sslmode=no", "postgresql://***@"),
        ("mysql://ann:se#cret@host/x", "mysql://***@"),
        ("redis://:secret@host:6379/0", "redis://***@host:6379/0"),
        ("https://TOKEN@host", "https://***@host"),
        ("postgresql://host/x?sslpassword=secret&user=ann", "postgresql://host/x?sslpassword=***&user=***"),
        ("https://host/zoo?auth=secret&flag#access_token=secret", "https://host/zoo?auth=***&***#access_token=***"),
        ("zip://zoo::https://TOKEN@host/a.zip?sig=secret", "zip://zoo::https://***@host/a.zip?sig=***"),
        ("--storage=mysql://ann:secret@host and https://b:c@d", "--storage=mysql://***@host and https://***@d"),
    ],
)
def test_user_information_and_every_value_of_a_query_are_hidden(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize("text", ["sqlite:///a/b.db", "http://h:80/a, mail a@b.c", "a=b:c@d", "http://[x", "?a=b", ""])
def test_what_is_no_credential_stays(text):
    assert masked(text) == text


def test_what_a_driver_says_of_a_part_of_an_address_is_hidden_too():
    url = "postgresql+psycopg://ann:se@cret@host/x?sslpassword=to%20psecret"
    said = masked('no host "cret@host", password "to psecret" or to%20psecret', url)
    assert said == 'no host "***@host", password "***" or ***'


def test_names_from_outside_move_no_cursor():
    assert printable("a\x1b[31m\nb\x9b\u202e\ud800") == "a\\u001b[31m\\nb\\u009b\\u202e\\ud800"
    assert printable("crêpe 日本") == "crêpe 日本"
