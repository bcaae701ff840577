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
    "check --weigths m": "did you mean --weights?",
    "bench --secnds 3": "did you mean --seconds?",
    "plan --token-per-row 5": "did you mean --tokens-per-row?",
    "env --max-request=5 --mx-requests 5": "did you mean --max-requests?",
}


@pytest.mark.parametrize("line", MEANT)
def test_a_misspelt_option(capsys, line):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert ended.value.code == 2
    usage, said = capsys.readouterr().err.rsplit("\n", 2)[:2]
    assert MEANT[line] in said
    assert usage.startswith(f"usage: embedfleet {line.split()[0]} ")


def test_a_misspelt_option_before_the_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["embedfleet", "--verison"])
    for words in (None, ["--verison"], ["--verison", "models"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        said = capsys.readouterr().err
        assert said.endswith("error: unknown option --verison, did you mean --version?\n")


def test_a_value_with_a_space_may_look_like_an_option(capsys):
    words = ["encode", "/absent", "out", "--model", "m", "--instruction", "--given a query, find"]
    assert cli.main(words) == 1
    assert "/absent" in capsys.readouterr().err


def test_an_option_like_no_other(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--xyzzy"])
    assert capsys.readouterr().err.endswith("unknown option --xyzzy\n")


@pytest.mark.parametrize("words", [["--catal"], ["--catalog"]])
def test_options_may_be_shortened(capsys, words):
    assert cli.main(["models", *words]) == 0


def test_what_follows_two_dashes_is_no_option(capsys):
    assert cli.main(["check", "--", "--modle"]) == 2
    assert "unknown option" not in capsys.readouterr().err
