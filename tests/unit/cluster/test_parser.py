"""What the command line says of options that it does not know."""

from __future__ import annotations

import pytest

from cluster import cli

MEANT = {
    "serve --modle small": "unknown option --modle, did you mean --model?",
    "serve --prot=8001": "unknown option --prot, did you mean --port?",
    "encode in.jsonl out --modell small": "unknown option --modell, did you mean --model?",
    "score in.jsonl out --docment-column a": "did you mean --document-column?",
    "batch --ouput x in.jsonl": "did you mean --output?",
    "models --urll here": "did you mean --url?",
    "verify --apikey k": "did you mean --api-key?",
    "models --catal": "did you mean --catalog?",
    "check --weigths m": "did you mean --weights?",
    "bench --secnds 3": "did you mean --seconds?",
    "plan --token-per-row 5": "did you mean --tokens-per-row?",
    "env --mx-requests 5": "did you mean --max-requests?",
    "encode in.jsonl out --id-colum id": "did you mean --id-column?",  # not taken as an abbreviation
}


@pytest.mark.parametrize("line", MEANT)
def test_a_misspelt_option(capsys, line):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert MEANT[line] in said
    assert said.startswith(f"embedfleet {line.split()[0]}: ")


def test_a_misspelt_option_before_the_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["embedfleet", "--verison"])
    for words in (None, ["--verison"], ["--verison", "models"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        said = capsys.readouterr().err
        assert said.startswith("embedfleet: unknown option --verison, did you mean --version? ")


def test_a_value_with_a_space_may_look_like_an_option():
    value = "--given a query, find"
    words = ["encode", "in.jsonl", "out", "--model", "m", "--instruction", value]
    assert cli._parser().parse_args(words).instruction == value


def test_an_option_like_no_other(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--xyzzy"])
    said = capsys.readouterr().err
    assert "unknown option --xyzzy" in said
    assert "did you mean" not in said


def test_what_follows_two_dashes_is_no_option(capsys):
    assert cli.main(["check", "--", "--modle"]) == 2
    assert "unknown option" not in capsys.readouterr().err
