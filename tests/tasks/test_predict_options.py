"""Options of predict.py on a trained translation, each where it changes what comes out.

Sentences in which one greets another are turned round; every third name is one that the
vocabularies lack. Scores are held to one pass over the whole text, outside of any search.
"""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

import build
import predict
from predict import Predictor, load
from tests.tasks.conftest import ALWAYS, CONFIGS

NAMES = {"anna": "anja", "ben": "benno", "carl": "karl", "dora": "dorle", "emil": "milo"}
NAMES |= {"finn": "finno", "greta": "gretel", "hugo": "ugo"}
VERBS = {"greets": "welcomed", "sees": "seen", "helps": "helped", "calls": "called"}
TIMES = {"today": "heute", "now": "jetzt", "": ""}
SOURCES = [
    "anna greets ben today.", "hugo helps anna.", "emil sees dora now.", "greta calls finn.",
    "carl calls hugo today.", "ben greets greta now.",
]  # fmt: skip
CHOSEN = [
    *["task=translation", "data=text_pairs", "tokenizer=words", "data.batch_size=32"],
    *["model.label_smoothing=0", "task.max_new_tokens=20", "optimizer.lr=2e-2"],
    *["model.encoder.hidden_size=24", "model.encoder.embedding_size=24"],
    *["model.encoder.num_layers=1", "model.decoder.hidden_size=48"],
    *["model.decoder.embedding_size=24", "model.encoder.dropout=0", "model.decoder.dropout=0"],
    *["model.encoder.embedding_dropout=0", "model.decoder.embedding_dropout=0"],
    "model.encoder.embedding_range=0.1",  # learns slowly: after three epochs it is still unsure
    "callbacks=keep",
]


def sentence(chance: random.Random, rare: float) -> tuple[str, str]:
    """A sentence and its translation; each name is one of its own with probability `rare`."""

    def name() -> str:
        if chance.random() >= rare:
            return chance.choice(list(NAMES))
        return "".join(chance.choice("bdfglmnprst") + chance.choice("aeiou") for _ in range(4))

    who, whom, verb, time = name(), name(), chance.choice([*VERBS]), chance.choice([*TIMES])
    said = f"{NAMES.get(whom, whom)} is {VERBS[verb]} by {NAMES.get(who, who)}"
    return f"{who} {verb} {whom} {time}".strip() + ".", f"{TIMES[time]} {said}".strip() + "."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A long run and a short one of another seed, with the checkpoint of each epoch."""
    folder, chance = tmp_path_factory.mktemp("runs"), random.Random(0)
    for split, count in [("train", 600), ("validation", 20), ("test", 4)]:
        pairs = [sentence(chance, rare=0.3) for _ in range(count)]
        rows = [json.dumps({"source": source, "target": target}) for source, target in pairs]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    GlobalHydra.instance().clear()
    places = []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for seed, epochs in [(1, 12), (2, 3)]:
            own = [f"data.path={folder}", f"paths.run_dir={folder}/run{seed}", f"seed={seed}"]
            own.append(f"trainer.max_epochs={epochs}")
            config = compose("config", [*CHOSEN, *ALWAYS, *own])
            lightning.seed_everything(seed, verbose=False)
            data = build.data(config)
            build.choose_monitor(config, data.spec)
            task = build.task(config, data.spec, data.codec, data.fingerprint)
            build.trainer(config).fit(task, datamodule=data)
            places.append(folder / f"run{seed}")
    return places


def opened(place: Path, epoch: int | None = None, **more: Any) -> Predictor:
    """A run's best checkpoint, or that after an epoch: the early ones are unsure."""
    file = place if epoch is None else place / "checkpoints" / f"{epoch}.ckpt"
    return load(file, device="cpu", precision="fp32", **more)


@pytest.fixture(scope="module")
def sure(runs: list[Path]) -> Predictor:
    return opened(runs[0])


@pytest.fixture(scope="module")
def unsure(runs: list[Path]) -> Predictor:
    return opened(runs[0], epoch=2)


def listed(model: Predictor, **options: Any) -> list[list[dict[str, Any]]]:
    return [answer["n_best"] for answer in model(SOURCES, **options)]


def texts(model: Predictor, **options: Any) -> list[str]:
    return [answer["text"] for answer in model(SOURCES, **options)]


def symbols(model: Predictor, text: str) -> list[int]:
    return [*model.task.codec.outputs.encode(text), model.task.eos_id]


@torch.no_grad()
def along(task: Any, source: str, target: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (T, V) and attention (T, S) of a known text, in one pass."""
    batch = task.codec.batch([source])
    memory = task.model.encode(batch.source, batch.source_lengths)
    output = task.model(memory, torch.tensor([[task.bos_id, *target[:-1]]]))
    return task.model.head.log_probs(output.hidden)[0], output.attention[0]


def total(task: Any, source: str, target: list[int]) -> float:
    """The log-probability of a text."""
    said, _ = along(task, source, target)
    return said.gather(1, torch.tensor(target)[:, None]).sum().item()


def known(several: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those without an unknown word, which no text spells."""
    return [one for one in several if "<unk>" not in one["text"]]


# Unknown words


def test_an_unknown_word_is_copied_from_where_the_decoder_looked(sure: Predictor) -> None:
    """As it was written: the source's vocabulary lacks these names too."""
    chance = random.Random(1)
    pairs = [sentence(chance, rare=1.0) for _ in range(30)]
    sources = [source for source, _ in pairs]
    usual = [answer["text"] for answer in sure(sources)]
    assert all(text.count("<unk>") == 2 for text in usual)
    replaced = [answer["text"] for answer in sure(sources, replace_unknown=True)]
    right = [text == target for text, (_, target) in zip(replaced, pairs, strict=True)]
    assert sum(right) >= 28, replaced
    (answer,) = sure(["Zelda-Zoë sees Ürük."], replace_unknown=True)
    assert answer["text"] == "Ürük is seen by Zelda-Zoë."


def test_known_words_are_left_as_they_are(sure: Predictor) -> None:
    assert texts(sure, replace_unknown=True) == texts(sure)
    assert texts(sure)[1] == "anja is helped by ugo."


# What a hypothesis scores


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("norm", ["power", "gnmt"])
def test_scores_are_divided_by_the_norm_of_the_length(
    unsure: Predictor, norm: str, penalty: float
) -> None:
    found = listed(unsure, n_best=5, length_norm=norm, length_penalty=penalty)
    for source, several in zip(SOURCES, found, strict=True):
        scores = [one["score"] for one in several]
        assert scores == sorted(scores, reverse=True)
        for one in known(several):
            target = symbols(unsure, one["text"])
            length = len(target) if norm == "power" else (5 + len(target)) / 6
            expected = total(unsure.task, source, target) / length**penalty
            assert one["score"] == pytest.approx(expected, abs=1e-4)


def test_the_norm_decides_how_long_the_best_is(runs: list[Path]) -> None:
    """gnmt divides by less than the length itself, so that short texts lose less by it."""
    model = opened(runs[0], epoch=0)

    def lengths(**options: Any) -> int:
        found = model(sorted({*SOURCES, *(s.replace(".", " now.") for s in SOURCES)}), **options)
        return sum(len(answer["text"].split()) for answer in found)

    short, usual, long = (lengths(beam_size=20, length_penalty=a) for a in (0.0, 0.5, 4.0))
    assert short < long and short <= usual <= long
    assert lengths(beam_size=20, length_penalty=0.5, length_norm="gnmt") < usual


def test_a_coverage_penalty_favours_what_has_read_the_whole_source(unsure: Predictor) -> None:
    def coverage(source: str, text: str) -> float:
        _, attention = along(unsure.task, source, symbols(unsure, text))
        return attention.sum(0).clamp(1e-6, 1.0).log().sum().item()

    found = listed(unsure, n_best=5, coverage_penalty=1.5)
    plain = listed(unsure, n_best=5)
    gained = []
    for source, several, usual in zip(SOURCES, found, plain, strict=True):
        for one in known(several):
            target = symbols(unsure, one["text"])
            mean = total(unsure.task, source, target) / len(target)
            expected = mean + 1.5 * coverage(source, one["text"])
            assert one["score"] == pytest.approx(expected, abs=1e-4)
        if known(several[:1]) and known(usual[:1]):
            covered = [coverage(source, one[0]["text"]) for one in (several, usual)]
            gained.append(covered[0] - covered[1])
    assert sum(gained) > 0.0
    assert [several[0]["text"] for several in found] != [usual[0]["text"] for usual in plain]


def test_a_text_is_no_shorter_than_its_least_length(sure: Predictor) -> None:
    usual = [len(symbols(sure, text)) - 1 for text in texts(sure)]
    for least in (1, 9):
        found = sure(SOURCES, min_length=least, n_best=3)
        several = [one for answer in found for one in known(answer["n_best"])]
        assert several and all(len(symbols(sure, one["text"])) - 1 >= least for one in several)
    assert max(usual) < 9
    assert texts(sure, min_length=1) == texts(sure)


# Which hypotheses are found


def test_the_n_best_are_different_the_best_first(unsure: Predictor) -> None:
    one, five = unsure(SOURCES, beam_size=5), unsure(SOURCES, n_best=5)
    for best, answer in zip(one, five, strict=True):
        assert "n_best" not in best
        assert answer["text"] == best["text"] == answer["n_best"][0]["text"]
        assert len({each["text"] for each in answer["n_best"]}) == 5
    assert all(len(several) == 8 for several in listed(unsure, n_best=8))  # the beam grows


def test_groups_begin_otherwise_the_more_diversity_is_asked_for(unsure: Predictor) -> None:
    def beginnings(**options: Any) -> list[int]:
        found = listed(unsure, beam_size=4, n_best=4, **options)
        return [len({one["text"].split()[0] for one in several}) for several in found]

    assert beginnings(groups=4, diversity=50.0) == [4] * len(SOURCES)
    assert sum(beginnings()) < 4 * len(SOURCES)
    alike = listed(unsure, beam_size=4, n_best=4, groups=4, diversity=0.0)
    greedy = texts(unsure, beam_size=1)
    assert [[one["text"] for one in several] for several in alike] == [[text] for text in greedy]


def test_typical_sampling_takes_what_is_as_surprising_as_expected(unsure: Predictor) -> None:
    """A share so small leaves one symbol, whatever is drawn, and often not the likeliest."""
    chosen = [texts(unsure, method="sample", typical=1e-6, seed=seed) for seed in (0, 7)]
    assert chosen[0] == chosen[1] != texts(unsure, beam_size=1)
    free = [texts(unsure, method="sample", typical=1.0, seed=seed) for seed in (0, 7)]
    assert free[0] != free[1] and free[0] == texts(unsure, method="sample", seed=0)
    never = [unsure.task.pad_id, unsure.task.bos_id]
    checked = 0
    for source, text in zip(SOURCES, chosen[0], strict=True):
        target = symbols(unsure, text)
        if "<unk>" in text or len(target) > 15:  # cut, and so without an end
            continue
        said, _ = along(unsure.task, source, target)
        said[:, never] = -math.inf
        said = said.log_softmax(-1)
        expected = torch.special.entr(said.exp()).sum(-1, keepdim=True)
        assert (-said - expected).abs().argmin(-1).tolist() == target
        checked += 1
    assert checked


# Several models


def test_an_ensemble_says_the_mean_of_what_its_members_say(runs: list[Path]) -> None:
    alone = [opened(run, epoch=2) for run in runs]
    file = runs[1] / "checkpoints" / "2.ckpt"
    both = opened(runs[0], epoch=2, ensemble=[file])
    answers = both(SOURCES, length_penalty=0.0, beam_size=10)
    own = [texts(one, length_penalty=0.0, beam_size=10) for one in alone]
    for row, (source, answer) in enumerate(zip(SOURCES, answers, strict=True)):

        def together(text: str, source: str = source) -> float:
            target = symbols(both, text)
            said = torch.stack([along(one.task, source, target)[0].exp() for one in alone])
            return said.mean(0).log().gather(1, torch.tensor(target)[:, None]).sum().item()

        if "<unk>" in answer["text"]:
            continue
        value = together(answer["text"])
        assert answer["score"] == pytest.approx(value, abs=1e-4)
        assert both.score([(source, answer["text"])])[0]["log_probability"] == pytest.approx(
            value, abs=1e-4
        )
        for theirs in own:  # the search found nothing that both like less than one's own choice
            assert value >= together(theirs[row]) - 1e-4
    found = [answer["text"] for answer in answers]
    assert found not in own


def test_an_average_is_of_weights_of_the_last_epochs_or_of_files(runs: list[Path]) -> None:
    files = [runs[0] / "checkpoints" / f"{epoch}.ckpt" for epoch in (1, 2, 10, 11)]
    weights = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    last = opened(runs[0], average=["2"])
    given = opened(runs[0], epoch=1, average=[files[1]])
    for model, (one, other) in [(last, weights[2:]), (given, weights[:2])]:
        for name, value in model.task.state_dict().items():
            torch.testing.assert_close(value, (one[name] + other[name]) / 2)
    assert texts(given) != texts(opened(runs[0], epoch=1))
    assert texts(opened(runs[0], average=[runs[0]])) == texts(opened(runs[0]))
    with pytest.raises(ValueError, match="average=90: there are 12 checkpoints"):
        opened(runs[0], average=["90"])


def test_the_command_line_prints_what_python_gives(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "--n-best 2 --groups 2 --beam-size 4 --diversity 1.5 --length-norm gnmt --min-length 2"
    several = ["--coverage-penalty", "0.3", "--replace-unknown", "--ensemble", str(runs[1])]
    place = [str(runs[0]), "--device", "cpu", "--precision", "fp32", *asked.split()]
    options: dict[str, Any] = {
        "n_best": 2, "groups": 2, "beam_size": 4, "diversity": 1.5, "length_norm": "gnmt",
        "min_length": 2,
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["predict.py", *place, *SOURCES])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    expected = [one for answer in listed(opened(runs[0]), **options) for one in answer]
    assert lines == [f"{one['score']:9.4f}  {one['text']}" for one in expected]
    monkeypatch.setattr(sys, "argv", ["predict.py", *place, *SOURCES, *several])
    with pytest.raises(ValueError, match=r"coverage_penalty=0\.3 needs one model with attention"):
        predict.main()
