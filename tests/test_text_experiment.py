"""`python -m experiments.text`: run for real, its files read back, its models asked."""

import csv
import functools
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import Done, call, environment, read_json, surroundings  # noqa: F401
from evaluations import assert_evaluated, evaluation
from sklearn.decomposition import PCA
from test_tabular_experiments import assert_drawn

from experiments import _text_commands, _text_numbers, _text_report, tabular, text
from experiments._folder import RunFolder, as_json
from experiments._report import Result, swept
from experiments._run import UsageError
from experiments._text_numbers import TextMeasures, accepted, accuracy, between, distinct, words_of
from experiments._text_report import NUMBERS, TextReport, plane, principal
from vae_jax.data import Sentences, TextRules, buckets, grammar, lengths_of, load_sentences, text_of
from vae_jax.types import Hyper

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small", "little_is_written")

SMALL = ("--hidden", "8", "--embedding", "8", "--latent-dim", "2", "--num-samples", "5")
FLAGS = (
    *SMALL,
    *("--sentences", "400", "--epochs", "2", "--batch-size", "32", "--eval-sentences", "8"),
    *("--remedy", "none", "warmup+free_bits", "aggressive", "--seed", "0", "1"),
    # The codes are free, and learned fast: sentences differ by their z, however short the run.
    *("--free-bits", "8", "--learning-rate", "0.05", "--chunk", "8", "--name", "run"),
)
RUN = "results/text/run"
SETTINGS = ("without_z", "none", "warmup+free_bits", "aggressive")
BEST = "warmup+free_bits-seed0"
# Of one length each, so that there is one bucket.
LINES = ("the cat sings.", "the dog sings!", "did cats sing?", "the dogs sing.")
CHARACTERS = (
    *SMALL,
    *("--text-file", "t.txt", "--level", "characters", "--remedy", "none", "--epochs", "1"),
    *("--learning-rate", "0.01", "1e30", "--batch-size", "4", "--chunk", "4", "--figures", "none"),
)


@pytest.fixture(scope="module")
def little_is_written():
    """Each model of a run writes few sentences, and two buckets hold those that it reads."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (_text_numbers, _text_report):
            patch.setattr(module, "WRITTEN", 20)
            patch.setattr(module, "SURGERY", 40)
        patch.setattr(text, "buckets", functools.partial(buckets, count=2))
        yield


@pytest.fixture(scope="module")
def home(compiled_quickly, little_is_written, tmp_path_factory) -> Path:
    """A folder with a run of three remedies and two seeds, beside the decoder without z."""
    folder = tmp_path_factory.mktemp("runs")
    done = call(text, folder, *FLAGS)
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def sentences():
    """What the run was trained on."""
    return load_sentences("grammar", num_train=400)


@pytest.fixture(scope="module")
def known(sentences) -> list[str]:
    """Training sentences without an unknown word, each once."""
    written = [text_of(row, sentences.vocabulary, "words") for row in sentences.train]
    return [one for one in dict.fromkeys(written) if "<unk>" not in one]


def members(home: Path) -> dict[str, Any]:
    return {one["name"]: one for one in read_json(home / RUN / "summary.json")["members"]}


def ask(home: Path, *words: str) -> list[str]:
    """What a command says, after the line that names the model."""
    done = call(text, home, words[0], RUN, *words[1:])
    assert (done.code, done.err) == (0, "")
    first, *rest = done.out.splitlines()
    assert first.endswith(", after epoch 2")
    return rest


def assert_refused(done: Done, *said: str) -> None:
    """Exit code 2 and one line; what a command has said of its model before may stand."""
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert done.err.startswith("error: ")
    for words in said:
        assert words in done.err


# A run.


def test_every_model_has_its_rows_and_its_checkpoint(home):
    rows = list(csv.DictReader(io.StringIO((home / RUN / "metrics.csv").read_text("utf-8"))))
    names = [f"{setting}-seed{seed}" for setting in SETTINGS for seed in (0, 1)]
    assert sorted((row["member"], row["epoch"]) for row in rows) == sorted(
        itertools.product(names, "12")
    )
    assert list(members(home)) == names
    for row in rows:
        setting = row["member"].rpartition("-")[0]
        assert float(row["latent"]) == (setting != "without_z")
        assert float(row["beta"]) == 1
        assert float(row["free_bits"]) == (8 if "free_bits" in setting else 0)
        assert float(row["warmup_epochs"]) == (3 if "warmup" in setting else 0)
        assert float(row["aggressive_epochs"]) == (2 if setting == "aggressive" else 0)
        ended = members(home)[row["member"]]
        if row["epoch"] == "2":
            assert float(row["test_neg_elbo"]) == pytest.approx(ended["neg_elbo"], rel=1e-6)
    assert (home / RUN / "checkpoints").is_dir()


def test_what_z_buys_is_the_difference_of_the_same_seed(home):
    found = {name: one["also"] for name, one in members(home).items()}
    for name, own in found.items():
        without = found[f"without_z-{name.rpartition('-')[2]}"]
        gain = without["neg_log_likelihood"] - own["neg_log_likelihood"]
        assert own["gain"] == gain
        assert (own["gain"] == 0) == name.startswith("without_z")


def test_numbers_are_in_their_ranges_and_agree(home, sentences):
    tokens = lengths_of(sentences.test[:8]).sum()
    for one in members(home).values():
        also = one["also"]
        assert {*NUMBERS} <= also.keys()
        words = 8 * also["neg_log_likelihood"] / np.log(also["perplexity"])
        assert words == pytest.approx(tokens)
        assert also["kl"] == one["kl"]
        assert 1 <= also["effective_samples_5th"] <= also["effective_samples_median"] <= 5.001
        for share in ("accuracy_by_mean", "accuracy_by_sample", "greedy_new", "distinct_1"):
            assert 0 <= also[share] <= 1
        assert also["active_units"] in (0, 1, 2)
    # Codes that cost nothing are used; a decoder without z leaves none to use.
    assert members(home)[BEST]["also"]["kl"] > 1
    assert members(home)["without_z-seed0"]["also"]["kl"] < 0.1


def test_the_table_is_the_mean_and_the_standard_error_over_seeds(home):
    lines = (home / RUN / "text.md").read_text("utf-8").splitlines()
    assert "grammar · 285 words · GRU 8 · z 2" in lines[0]
    assert f"The entropy of the grammar is {grammar.entropy():.3f} nats, of which" in lines[9]
    assert "the estimate rests on under 2.5 effective samples of 5" in lines[-1]
    _, seeds, *columns = (cell.strip() for cell in lines[2].strip("|").split("|"))
    assert (seeds, columns) == ("seeds", list(NUMBERS.values()))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:8]]
    assert [row[:2] for row in rows] == [[name.replace("_", " "), "2"] for name in SETTINGS]
    for setting, (_, _, *cells) in zip(SETTINGS, rows, strict=True):
        own = [members(home)[f"{setting}-seed{seed}"]["also"] for seed in (0, 1)]
        for name, cell in zip(NUMBERS, cells, strict=True):
            first, second = (one[name] for one in own)
            # Written to so many digits.
            allowed = 0.501 * 10.0 ** -len(cell.partition(" ")[0].partition(".")[2])
            mean, error = map(float, cell.split(" ± "))
            assert mean == pytest.approx((first + second) / 2, abs=allowed)
            assert error == pytest.approx(abs(first - second) / 2, abs=allowed)


def test_the_closing_table_names_the_remedies(home):
    lines = (home / RUN / "table.md").read_text("utf-8").splitlines()
    columns, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in
                      (lines[2], *lines[4:8]))  # fmt: skip
    assert columns[:3] == ["", "beta", "warmup epochs"]
    assert "latent" not in columns
    assert [row[0] for row in rows] == [name.replace("_", " ") for name in SETTINGS]


def test_a_word_that_is_not_known_is_named(home, known):
    sentence = known[0].replace("the", "qwerty", 1)
    assert sentence != known[0]
    done = call(text, home, "reconstruct", RUN, sentence, "--number", "1")
    assert done.code == 0
    said = f"warning: sentence {sentence!r}: not in the vocabulary, read as <unk>: qwerty\n"
    assert done.err == said


def test_figures_are_drawn(home):
    figures = home / RUN / "figures"
    shared = {path.stem for path in figures.glob("*.png")}
    assert {"loss_curves", "neg_log_likelihood", "remedies"} == shared
    own = {path.relative_to(figures).as_posix() for path in figures.glob("*/*.png")}
    latent = {f"{name}-seed0/latent.png" for name in SETTINGS[1:]}
    assert own == latent | {f"{name}-seed0/sentences.png" for name in SETTINGS}
    for path in figures.rglob("*.png"):
        assert_drawn(path)


def test_the_arrays_behind_the_figures_are_the_numbers_of_the_run(home, sentences):
    figures = home / RUN / "figures"
    by_setting = [[members(home)[f"{name}-seed{seed}"] for seed in (0, 1)] for name in SETTINGS]
    with np.load(figures / "remedies.npz") as arrays:
        np.testing.assert_array_equal(arrays["epochs"], [1, 2])
        kl = [[one["kl"] for one in seeds] for seeds in by_setting[1:]]
        np.testing.assert_allclose(arrays["kl"][..., -1], kl, rtol=1e-6)
    with np.load(figures / "neg_log_likelihood.npz") as arrays:
        costs = [[one["also"]["neg_log_likelihood"] for one in seeds] for seeds in by_setting]
        np.testing.assert_allclose(arrays["neg_log_likelihood"], costs, rtol=1e-6)
    with np.load(figures / BEST / "latent.npz") as arrays:
        np.testing.assert_array_equal(arrays["kinds"], sentences.test_kinds[:40])
        assert arrays["points"].shape == (40, 2)
    with np.load(figures / BEST / "sentences.npz") as arrays:
        assert len(arrays["interpolation"]) == 7
        written = [text_of(row, sentences.vocabulary, "words") for row in sentences.test[:10]]
        assert list(arrays["held-out_sentence"]) == written


# What can be asked.


def test_the_same_seed_writes_the_same_sentences_in_a_process_of_its_own_too(home, monkeypatch):
    flags = ("--number", "4", "--seed", "3")
    first = ask(home, "generate", *flags)
    assert len(set(first)) > 1
    assert ask(home, "generate", *flags) == first
    assert ask(home, "generate", "--number", "4", "--seed", "4") != first
    words = [sys.executable, "-m", "experiments.text", "generate", RUN, *flags]
    # Compiled as here, so that it is the same program.
    env = environment() | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == first


def test_greedy_is_a_temperature_of_nought_and_the_first_of_all_words(home):
    greedy = ask(home, "generate", "--number", "5", "--greedy")
    assert len(set(greedy)) > 1
    assert ask(home, "generate", "--number", "5", "--temperature", "0") == greedy
    assert ask(home, "generate", "--number", "5", "--top-k", "1") == greedy
    assert ask(home, "generate", "--number", "5") != greedy


def test_an_interpolation_leads_from_one_reconstruction_to_the_other(home, known):
    # The model and two sentences that it tells apart, for all that it was trained so little.
    model, first, last = ("--model", "aggressive-seed0"), known[1], known[5]
    ends = [ask(home, "reconstruct", one, "--number", "1", *model)[0] for one in (first, last)]
    assert ends[0] != ends[1]
    lines = ask(home, "interpolate", first, last, *model)
    assert len(lines) == 7
    assert [f"mean    {line}" for line in (lines[0], lines[-1])] == ends


def test_a_path_is_straight():
    path = between(jnp.array([0.0, 4.0]), jnp.array([2.0, 0.0]), 3)
    np.testing.assert_array_equal(path, [[0, 4], [1, 2], [2, 0]])


def test_a_training_sentence_is_nearest_to_itself(home, known):
    for sentence in known[:2]:
        lines = ask(home, "nearest", sentence, "--number", "6")
        assert lines[0] == f"{0:8.3f}  {sentence}"
        distances = [float(line.split()[0]) for line in lines]
        assert distances == sorted(distances)
        assert distances[-1] > 0
        assert len({line[10:] for line in lines}) == 6


def test_reconstructions_are_of_the_mean_and_of_samples(home, known):
    lines = ask(home, "reconstruct", known[0], "--number", "3")
    assert [line.split()[0] for line in lines] == ["mean", "sample", "sample", "sample"]
    assert ask(home, "reconstruct", known[0], "--number", "3", "--seed", "1") != lines


def test_the_best_model_is_asked_unless_one_is_named(home):
    with_z = {name: one["also"] for name, one in members(home).items() if one["latent"]}
    cheap = {
        name: also["mutual_information"]
        for name, also in with_z.items()
        if also["gain"] >= -0.01 * (also["gain"] + also["neg_log_likelihood"])
    }
    costs = {name: also["neg_log_likelihood"] for name, also in with_z.items()}
    best = max(cheap, key=cheap.__getitem__) if cheap else min(costs, key=costs.__getitem__)
    assert call(text, home, "generate", RUN, "--number", "1").out.startswith(f"{best}, ")
    said = call(text, home, "generate", RUN, "--number", "1", "--model", "without_z-seed1").out
    assert said.startswith("without_z-seed1, after epoch 2\n")


def test_without_z_every_greedy_sentence_is_the_same(home):
    flags = ("--number", "5", "--greedy", "--model", "without_z-seed0")
    assert len(set(ask(home, "generate", *flags))) == 1


UNASKABLE = {
    ("nearest", RUN, "qwerty asdf"): "none of its words is in the vocabulary",
    ("reconstruct", RUN, "the " * 40): "40 words and <eos>, but at most",
    ("interpolate", RUN, "the cook sings.", " "): "sentence ' ' is empty",
    ("interpolate", RUN, "the", "the", "--steps", "1"): "--steps 1: a whole number of 2 or more",
    ("generate", RUN, "--model", "ghost"): "--model ghost: one of without_z-seed0 without_z-seed1",
    ("generate", RUN, "--number", "0"): "--number 0: a whole number of 1 or more",
    ("generate", RUN, "--top-k", "0"): "--top-k 0: a whole number of 1 or more",
    ("generate", RUN, "--top-k", "999"): "--top-k 999: at most the 285 of the vocabulary",
    ("nearest", RUN, "the .", "--number", "999"): "--number 999: at most the 400 different",
    ("generate", RUN, "--temperature", "-1"): "--temperature -1.0: a finite number of 0 or more",
    ("generate", RUN, "--temperature", "inf"): "--temperature inf: a finite number",
    ("generate", RUN, "--temperature", "2", "--greedy"): "not together with --greedy",
    ("generate", RUN, "--seed", "-1"): "--seed -1: a whole number from 0",
    ("generate", "results"): "results: not a run (no config.json)",
    ("generate", "nowhere"): "nowhere: there is no such run",
    ("generate",): "required",
    ("speak", RUN): "Unrecognized options: speak",
}


@pytest.mark.parametrize("words", UNASKABLE, ids=" ".join)
def test_what_cannot_be_asked_is_one_line(words, home):
    assert_refused(call(text, home, *words), UNASKABLE[words])


def test_a_run_of_another_experiment_is_not_asked(tmp_path):
    run = RunFolder(tmp_path / "results" / "tabular" / "run")
    run.checkpoints.mkdir(parents=True)
    run.write_json("config.json", as_json(tabular.validate(tabular.Config())))
    done = call(text, tmp_path, "generate", str(run.path))
    assert done.code == 2
    warning, error = done.err.splitlines()
    assert warning.startswith("warning: ")  # it has no end
    assert error == f"error: {run.path}: not a run of experiments.text"


def test_the_models_without_z_alone_are_not_asked_unless_named():
    run: Any = SimpleNamespace(
        folder=RunFolder(Path("slice")), members=[SimpleNamespace(name="a", columns={"latent": 0})]
    )
    with pytest.raises(UsageError, match="slice: no model in it has z"):
        _text_commands._best(run)


# Text of one's own.


@pytest.fixture(scope="module")
def characters(compiled_quickly, little_is_written, tmp_path_factory) -> Done:
    """Characters of a short text, of which one sentence is held out; half the models diverge."""
    folder = tmp_path_factory.mktemp("characters")
    (folder / "t.txt").write_text("\n".join(3 * LINES) + "\n", encoding="utf-8")
    return call(text, folder, *CHARACTERS)


def test_the_characters_of_a_text_are_learned(characters):
    assert (characters.code, characters.err) == (1, "")
    run = characters.run
    assert run.name == "t-characters-gru8-z2-none-learning_rate0.01+1e+30-seed0"
    found = read_json(run / "summary.json")
    names = [f"{kind}-learning_rate{rate}-seed0" for kind in ("without_z", "none")
             for rate in ("0.01", "1e+30")]  # fmt: skip
    assert [one["name"] for one in found["members"]] == names
    assert found["diverged"] == names[1::2]
    table = (run / "text.md").read_text("utf-8")
    assert "perplexity per character" in table
    assert "entropy" not in table
    assert "accepted" not in table
    assert re.search(r"^\| none-learning rate1e\+30 \| 0 \|( – \|)+$", table, flags=re.MULTILINE)
    for one in found["members"]:
        assert ("gain" in one["also"]) == (one["problem"] is None)
    assert not list((run / "figures").glob("*/*.png"))  # --figures none
    said = call(text, characters.folder, "generate", str(run), "--number", "2")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{names[2]}, after epoch 1\n")
    assert set("".join(said.out.splitlines()[1:])) <= set("".join(LINES))


def test_a_finished_run_is_taken_up_as_it_is(characters):
    folder, run = characters.folder, characters.run
    names = ("summary.json", "text.md", "table.md", "metrics.csv")
    before = {name: (run / name).read_bytes() for name in names}
    assert_refused(call(text, folder, *CHARACTERS), "this run exists")
    other = call(text, folder, *CHARACTERS, "--resume", "--hidden", "9", "--name", run.name)
    assert_refused(other, "--hidden 9: the run to resume was started with 8")
    again = call(text, folder, *CHARACTERS, "--resume")
    assert (again.code, again.err) == (1, "")
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_changed_text_is_not_gone_on_with(characters):
    """Neither by a finished run nor by one that was stopped, of which no end was written."""
    folder, run = characters.folder, characters.run
    path, names = folder / "t.txt", ("summary.json", "metrics.csv", "provenance.json")
    written, before = path.read_bytes(), {name: (run / name).read_bytes() for name in names}
    found = read_json(run / "provenance.json")
    stopped = found["runs"][-1] | {"finished": None, "wall_time_seconds": None}
    try:
        path.write_bytes(written.replace(b"cat", b"cow"))
        said = "trained on other data (t.txt, 12 sentences) than there are now"
        for entry in (found["runs"][-1], stopped):
            (run / "provenance.json").write_text(json.dumps({"runs": [entry]}), "utf-8")
            assert_refused(call(text, folder, *CHARACTERS, "--resume"), said)
            assert_refused(call(text, folder, "generate", str(run)), said)
        (run / "provenance.json").write_bytes(before["provenance.json"])
    finally:
        path.write_bytes(written)
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_text_that_was_moved_is_found(characters, tmp_path):
    folder, run = characters.folder, characters.run
    (folder / "t.txt").rename(tmp_path / "t.txt")
    try:
        assert_refused(call(text, folder, "generate", str(run)), "t.txt: No such file")
        flags = ("--number", "1", "--data-dir", str(tmp_path))
        done = call(text, folder, "generate", str(run), *flags)
        assert (done.code, done.err) == (0, "")
    finally:
        (tmp_path / "t.txt").rename(folder / "t.txt")


def test_a_diverged_model_that_is_asked_says_so(characters):
    name = "none-learning_rate1e+30-seed0"
    flags = ("--number", "1", "--model", name)
    done = call(text, characters.folder, "generate", str(characters.run), *flags)
    assert done.code == 0
    assert done.err.startswith(f"warning: {name}: diverged (")


def test_a_run_can_be_evaluated(characters):
    said = "t: held-out sentences, nats per sentence"
    assert_evaluated(characters.run, said, classes=True, diverged=2, alone=True)
    found = evaluation(characters.run)
    trained = read_json(characters.run / "summary.json")["members"]
    assert found["unit"] == "nats per sentence"
    for one, before in zip(found["members"], trained[::2], strict=True):
        assert one["neg_elbo"] == pytest.approx(before["neg_elbo"], rel=1e-5)
        cost = before["also"]["neg_log_likelihood"]
        assert one["neg_log_likelihood"] == pytest.approx(cost, rel=1e-5)


def test_a_sweep_of_beta_has_a_curve_for_each_remedy():
    """The decoder without z is on none of them, and the other settings belong to one remedy."""
    results = []
    for remedy, latent, beta, free in [
        ("without_z", 0.0, 1.0, 0.0),
        *((name, 1.0, beta, free) for name, free in (("none", 0.0), ("free_bits", 0.5))
          for beta in (1.0, 0.25)),
    ]:  # fmt: skip
        swept_beta = "" if latent == 0 else f"-beta{beta:g}"
        columns = {"latent": latent, "beta": beta, "free_bits": free, "seed": 0}
        numbers = {"kl": 8 - 4 * beta, "reconstruction": 20 + 8 * beta}
        name = f"{remedy}{swept_beta}-seed0"
        results.append(Result(name, columns, [], numbers, None, {}))
    found = swept(results)
    assert found is not None
    assert found.setting == "beta"
    assert list(found.curves) == ["none", "free bits 0.5"]
    for curve in found.curves.values():
        assert curve.values.tolist() == [0.25, 1]
        assert curve.rate.tolist() == [7, 4]
    assert swept(results[:1]) is None


BAD = {
    b"": "the file is empty",
    b"\n \n\n": "at least 2 sentences are needed, found 0",
    b"one line alone\n": "at least 2 sentences are needed, found 1",
    b"the cat\nno \xff no\n": "not UTF-8 at byte 11",
    b"the cat\0\nthe cat\n": "a NUL byte at byte 7",
    b"go go\ngo go\ngo\n": "has size 1, but at least 2 words",
}


@pytest.mark.parametrize("content", BAD, ids=BAD.get)
def test_a_file_that_is_no_text_is_refused(content, tmp_path):
    (tmp_path / "t.txt").write_bytes(content)
    assert_refused(call(text, tmp_path, "--text-file", "t.txt"), "t.txt: ", BAD[content])
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


LONG = (LINES[0], "the dog sings the cat!", "did the cat sing?", "the dog eats.")


def test_long_lines_and_lines_without_a_known_word_are_counted(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text("\n".join([*LONG, "qwerty", *LONG, "the cat"]) + "\n", encoding="utf-8")
    config = text.Config(text_file=path, max_length=5, batch_size=1)
    _, task = text.prepare(text.validate(config))
    data: Any = task.data
    assert data.shape == (8, 5)
    assert capsys.readouterr().err.splitlines() == [
        "warning: sentences cut off at --max-length: 4",
        "warning: sentences left out, as no word of theirs is in the vocabulary: 1",
    ]
    flags = ("--text-file", "t.txt", "--max-length", "5", "--strict")
    assert_refused(call(text, tmp_path, *flags), "t.txt: line 2 has 6 words and <eos>")
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


MANY = tuple(str(n + 0.123456) for n in range(12))
REFUSED = {
    ("--remedy", "cure"): "--remedy cure: none, warmup, cyclical, free_bits, word_dropout, ",
    ("--remedy", "warmup+cure"): "--remedy warmup+cure: ",
    ("--remedy", "none+warmup"): "--remedy none+warmup: each part once, and none alone",
    ("--remedy", "warmup+warmup"): "--remedy warmup+warmup: each part once",
    ("--remedy", "none", "none"): "--remedy none: given twice",
    ("--remedy",): "--remedy",
    ("--remedy", "none", "--free-bits", "0.1"): "--free-bits 0.1: belongs to --remedy free_bits",
    ("--remedy", "none", "--warmup-epochs", "2"): "--warmup-epochs 2.0: belongs to --remedy warmup",
    ("--remedy", "warmup", "--warmup-epochs", "nan"): "--warmup-epochs nan: a finite number",
    ("--remedy", "aggressive", "--aggressive-epochs", "-1"): "--aggressive-epochs -1.0: ",
    ("--remedy", "word_dropout", "--word-dropout", "1.5"): "--word-dropout 1.5: a share from 0 to",
    ("--free-bits", "0.1", "0.1"): "--free-bits 0.1: given twice",
    ("--beta", "-1"): "--beta -1.0: a finite number of 0 or more",
    ("--learning-rate", "0"): "--learning-rate 0.0: a finite number above 0",
    ("--seed", "-1"): "--seed -1: ",
    ("--seed", "2147483648"): "--seed 2147483648: a number under 2^31",
    ("--latent-dim", "0"): "--latent-dim 0: a whole number of 1 or more",
    ("--eval-sentences", "0"): "--eval-sentences 0: a whole number of 1 or more",
    ("--epochs", "0"): "--epochs 0: ",
    ("--dataset", "novel"): "novel",
    ("--dataset", "tinyshakespeare"): "tinyshakespeare: no data folder is known",
    ("--dataset", "tinyshakespeare", "--sentences", "9"): "belongs to --dataset grammar",
    ("--text-file", "t.txt", "--dataset", "grammar"): "not together with --text-file",
    ("--text-file", "t.txt", "--sentences", "9"): "--sentences 9: belongs to --dataset grammar",
    ("--text-file", "absent.txt"): "absent.txt: No such file",
    ("--data-dir", "."): "--data-dir .: the grammar has no files",
    ("--text-file", "t.txt", "--max-length", "0"): "--max-length 0: a whole number of 2 or more",
    ("--text-file", "t.txt", "--max-length", "1"): "--max-length 1: a whole number of 2 or more",
    ("--text-file", "t.txt", "--max-words", "1"): "--max-words 1: a whole number of 2 or more",
    ("--text-file", "t.txt", "--min-count", "0"): "--min-count 0: a whole number of 1 or more",
    ("--text-file", "t.txt", "--level", "letters"): "letters",
    ("--text-file", "t.txt", "--batch-size", "9"): "--batch-size 9: at most the 4 to train on",
    ("--text-file", "t.txt", "--batch-size", "1", "--beta", *MANY): "--name: the settings make one",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_cannot_be_trained_is_one_line(flags, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join([*LINES, LINES[0]]) + "\n", encoding="utf-8")
    assert_refused(call(text, tmp_path, *flags), REFUSED[flags])
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


@pytest.mark.parametrize("name", ["grammar", "a text, mine", "_été", "日本", "..."])
def test_a_run_has_a_name_that_a_folder_can_have(name, sentences):
    made = text.run_name(text.Config(), sentences._replace(name=name))
    assert RunFolder.at(Path(), "text", made).path.name.endswith(
        "words-gru64-z16-none-free_bits-seed0"
    )


# The grid.


def test_the_grid_is_every_remedy_with_all_its_settings():
    remedies = ("none", "warmup+free_bits", "cyclical", "word_dropout", "aggressive")
    sweep: dict[str, Any] = {
        "beta": (0.5, 1.0),
        "free_bits": (0.1, 0.2),
        "learning_rate": (1e-3, 2e-3),
    }
    config = text.validate(text.Config(remedy=remedies, seed=(0, 1), **sweep))
    found = text.members_of(config, 12)

    own: dict[str, list[dict[str, float]]] = {
        "none": [{}],
        "warmup+free_bits": [{"warmup_steps": 36, "free_bits": bits} for bits in (0.1, 0.2)],
        "cyclical": [{"cycle_steps": 36}],
        "word_dropout": [{"word_dropout": 0.3}],
        "aggressive": [{"aggressive_steps": 24}],
    }
    expected = [
        (Hyper(latent=0.0, learning_rate=rate), seed)
        for rate, seed in itertools.product((1e-3, 2e-3), (0, 1))
    ]
    for remedy in remedies:
        product = itertools.product((0.5, 1.0), own[remedy], (1e-3, 2e-3), (0, 1))
        for beta, settings, rate, seed in product:
            expected.append((Hyper(beta, rate)._replace(**settings), seed))
    assert len(found) == 4 + 5 * 8 + 8
    for member, (hyper, seed) in zip(found, expected, strict=True):
        # As float32.
        np.testing.assert_allclose(np.array(member.hyper), np.array(hyper), rtol=1e-7)
        assert member.seed == member.columns["seed"] == seed

    assert len({member.name for member in found}) == len(found)
    assert len({tuple(member.columns.items()) for member in found}) == len(found)
    assert len({tuple(member.columns) for member in found}) == 1
    name = "warmup+free_bits-beta0.5-free_bits0.2-learning_rate0.002-seed1"
    assert {member.name: member.columns for member in found}[name] == {
        "latent": 1,
        "beta": 0.5,
        "warmup_epochs": 3,
        "free_bits": 0.2,
        "cycle_epochs": 0,
        "word_dropout": 0,
        "aggressive_epochs": 0,
        "learning_rate": 0.002,
        "seed": 1,
    }


def test_free_bits_are_swept():
    config = text.validate(text.Config(remedy=("free_bits",), free_bits=(0.1, 0.2)))
    found = {member.name: member.columns["free_bits"] for member in text.members_of(config, 1)}
    assert found == {
        "without_z-seed0": 0,
        "free_bits-free_bits0.1-seed0": 0.1,
        "free_bits-free_bits0.2-seed0": 0.2,
    }


# Numbers.

ITS_COLUMNS = {"latent": 1.0, "seed": 0}


def report_of(sentences: Sentences, figures: str) -> TextReport:
    """A report that needs no model."""
    model: Any = None
    return TextReport(TextMeasures(model, sentences, 5, 8), "a title", figures, 0)


def test_the_grammar_accepts_its_own_sentences_and_not_their_reverse():
    whole = load_sentences("grammar", TextRules(min_count=1), num_train=40, num_test=1)
    sentences = [words_of(row) for row in whole.train]
    reverse = [own[::-1] for own in sentences]
    assert accepted(sentences, whole.vocabulary) == 1
    assert accepted(reverse, whole.vocabulary) == 0
    assert accepted([*sentences, *reverse], whole.vocabulary) == 0.5


def test_a_known_sentence_is_not_counted_as_new():
    vocabulary = ("<pad>", "<eos>", "<unk>", ".", "the", "sailor", "steers", "chef", "bakes")
    sailor, chef, neither = (4, 5, 6, 3), (4, 7, 8, 3), (4, 5, 3)
    written = [sailor, chef, chef, neither]
    assert accepted(written, vocabulary) == 3 / 4
    assert accepted(written, vocabulary, but={chef}) == 1 / 4
    assert accepted(written, vocabulary, but={sailor, chef, neither}) == 0


def test_shares_of_tokens_and_of_word_pairs():
    rows = np.array([[3, 4, 1, 0], [5, 1, 0, 0]])
    # Three of the five tokens, ends counted; what stands after an end does not.
    assert accuracy(rows, jnp.array([[3, 5, 1, 0], [5, 3, 4, 1]])) == 3 / 5
    sentences = [[3, 4, 3], [3, 4]]
    assert distinct(sentences, 1) == 2 / 5
    assert distinct(sentences, 2) == 2 / 3
    assert distinct([[], [3]], 2) == 0


def test_principal_components_are_those_of_scikit_learn():
    means = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    points, shares = principal(means)
    pca = PCA(2).fit(means)
    # A component has no sign. Float32, of numbers of order 1.
    np.testing.assert_allclose(np.abs(points), np.abs(pca.transform(means)), atol=1e-5)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-5)
    line, shares = principal(means[:, :1])
    np.testing.assert_allclose(
        np.abs(line[:, 0]), np.abs(means[:, 0] - means[:, 0].mean()), atol=1e-5
    )
    np.testing.assert_allclose(shares, [1, 0], atol=1e-6)
    points, shares = principal(means[:1])
    np.testing.assert_array_equal(points, [[0, 0]])
    assert shares == [0, 0]


def test_a_run_of_which_every_model_diverged_is_written_without_numbers(tmp_path, sentences):
    one: Any = SimpleNamespace(problem="diverged")
    report = report_of(sentences, "all")
    folder = RunFolder(tmp_path)
    assert report.measure([one], folder) == [{}]
    report.conclude(folder, [Result("none-seed0", ITS_COLUMNS, [], {}, "diverged", {})])
    assert "| none | 0 |" in (tmp_path / "text.md").read_text("utf-8")
    assert not folder.figures.exists()


def test_a_slice_without_a_model_that_has_z_has_nothing_to_compare(tmp_path, sentences):
    columns = ITS_COLUMNS | {"latent": 0.0}
    one = Result("without_z-seed0", columns, [], {}, None, {"neg_log_likelihood": 3.0})
    folder = RunFolder(tmp_path)
    assert report_of(sentences, "all").conclude(folder, [one])[0].also["gain"] == 0
    assert not folder.figures.exists()


def cut_up(run: Path, joined: Path) -> None:
    """A run as three slices would have left it, but for their checkpoints."""
    whole, config = (read_json(run / f"{name}.json") for name in ("summary", "config"))
    first, *lines = (run / "metrics.csv").read_text("utf-8").splitlines()
    for number in (1, 2, 3):
        own = whole["members"][number - 1 :: 3]
        for one in own:
            one["also"].pop("gain")
        rows = [line for line in lines if any(f"{one['name']}," in line for one in own)]
        part = joined / "shards" / f"{number}-of-3"
        part.mkdir(parents=True)
        held = {"config": config | {"shard": f"{number}/3"}, "summary": whole | {"members": own}}
        for name, content in held.items():
            (part / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        (part / "metrics.csv").write_text("\n".join([first, *rows]) + "\n", encoding="utf-8")
        shutil.copy(run / "provenance.json", part)


def test_slices_are_joined_to_the_report_of_the_whole(home, tmp_path):
    """What z buys too, though a slice may lack the decoder without z."""
    run, joined = home / RUN, tmp_path / "results/text/joined"
    cut_up(run, joined)
    done = call(text, tmp_path, "--merge", str(joined))
    assert (done.code, done.err) == (0, "")
    for name in ("text.md", "table.md", "metrics.csv"):
        assert (joined / name).read_bytes() == (run / name).read_bytes()
    found, whole = (read_json(path / "summary.json") for path in (joined, run))
    assert found["members"] == whole["members"]
    for name in ("remedies", "neg_log_likelihood"):
        assert_drawn(joined / "figures" / f"{name}.png")


def test_slices_of_another_text_are_not_joined(home, tmp_path):
    joined = tmp_path / "results/text/joined"
    cut_up(home / RUN, joined)
    provenance = joined / "shards" / "2-of-3" / "provenance.json"
    found = read_json(provenance)
    found["runs"][-1]["data"]["sha256"] = {"train": "0"}
    provenance.write_text(json.dumps(found), encoding="utf-8")
    done = call(text, tmp_path, "--merge", str(joined))
    assert_refused(done, "2-of-3: trained on other data", "their SHA-256 differ")
    assert [path.name for path in joined.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("figures", "seed", "is_drawn"),
    [("none", 0, False), ("first_seed", 0, True), ("first_seed", 1, False), ("all", 1, True)],
)
def test_the_models_that_are_drawn_are_those_that_are_wanted(
    figures, seed, is_drawn, tmp_path, sentences, monkeypatch
):
    page = [("interpolation", ["the cat sings."])]
    monkeypatch.setattr(TextReport, "_page", lambda report, params: page)
    member = SimpleNamespace(name="without_z", seed=seed, columns={"latent": 0.0})
    one: Any = SimpleNamespace(member=member, params=None)
    report = report_of(sentences, figures)
    report.draw(one, tmp_path)
    assert (tmp_path / "sentences.png").exists() == is_drawn


def test_the_plane_shows_the_half_that_it_was_not_found_with():
    """Three kinds that differ in two of six dimensions, the others being far wider."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=400)
    means = rng.normal(size=(400, 6)) * np.array([0.1, 0.1, 5, 5, 5, 5])
    means[:, :2] += np.array([[0, 0], [1, 0], [0, 1]])[kinds]
    points, drawn, names = plane(means, kinds)
    np.testing.assert_array_equal(drawn, kinds[200:])
    assert names == ("linear discriminant 1", "linear discriminant 2")
    centres = np.stack([points[drawn == kind].mean(axis=0) for kind in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(axis=1)
    assert np.mean(nearest == drawn) > 0.99
    points, drawn, names = plane(means, kinds % 2)
    assert (points.shape, len(drawn)) == ((400, 2), 400)
    assert names[0].startswith("principal component 1 (")
