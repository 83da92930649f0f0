"""A new run begins with the weights of another: parts by name, symbols by symbol."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import build
from tasks import checkpoint as checkpoints
from tasks.transfer import begin_from, remapped
from tests import commands

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SIZES = ["cell=lstm", "model.embedding_size=12", "model.hidden_size=12", "model.num_layers=2"]
MODEL = [*SIZES, "tokenizer=whitespace"]
CLASSIFIER = ["task=classification", "data=text_labels", "model.bidirectional=false", *MODEL]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for a language model and, with other words, for a classifier."""
    tmp_path = tmp_path_factory.mktemp("transfer")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "train.txt").write_text("the film was good\nthe film was bad\nold words\n" * 20)
    rows = [f"the {'good' if i % 2 else 'bad'} play,{i % 2}" for i in range(40)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows))
    return tmp_path


def saved(run: Any) -> dict[str, Any]:
    """What a checkpoint of this run holds, as far as a transfer reads it."""
    state = {name: value.clone() for name, value in run.task.state_dict().items()}
    return {"state_dict": state, "unroll": run.task.record}


@pytest.fixture
def language_model(start: Any, texts: Path) -> Any:
    """Makes the checkpoint of a language model."""

    def made(*overrides: str) -> dict[str, Any]:
        run = start(
            "", "task=language_model", "data=text", f"data.path={texts}/texts", *MODEL,
            "data.document_end=true", "data.batch_size=2", "data.steps=5", *overrides,
        )  # fmt: skip
        return saved(run)

    return made


def classifier(start: Any, texts: Path, *overrides: str) -> Any:
    return start("", *CLASSIFIER, f"data.path={texts}/mine.csv", *overrides)


def vectors(state: dict[str, torch.Tensor], codec: Any, word: str) -> torch.Tensor:
    return state["model.inputs.embedding.weight"][codec.inputs.table[word]]


def test_a_classifier_begins_with_the_encoder_of_a_language_model(
    start: Any, texts: Path, language_model: Any
) -> None:
    read = language_model()
    run = classifier(start, texts)
    head = run.task.model.head.linear.weight.clone()
    taken = begin_from(run.task, read, where="LM")
    given, own = read["state_dict"], run.task.state_dict()
    for name in given:
        if name.startswith("model.stack."):
            assert torch.equal(own[name], given[name])
    assert taken.parts == ["inputs", "stack"] and taken.new == ["head"] and taken.left == []
    assert torch.equal(own["model.head.linear.weight"], head)
    # <pad> to <eos> and "the good bad" are known, "play" is not
    assert taken.known == {"input": (3, 4)}
    theirs = build.codec(read["unroll"])
    for word in ("<pad>", "<unk>", "the", "good", "bad"):
        assert torch.equal(vectors(own, run.data.codec, word), vectors(given, theirs, word))
    mean = given["model.inputs.embedding.weight"].mean(0)
    torch.testing.assert_close(vectors(own, run.data.codec, "play"), mean)
    said = str(taken)
    assert "took inputs, stack" in said and "new: head" in said
    assert "knows 3 of 4 input symbols (75.0%), the others begin as the mean" in said
    run.fit()


def test_a_tagger_begins_with_it_too(start: Any, texts: Path, language_model: Any) -> None:
    read = language_model()
    rows = '{"tokens": ["the", "good", "play"], "tags": ["D", "A", "N"]}\n' * 40
    (texts / "tags.jsonl").write_text(rows)
    run = start(
        "", "task=tagging", "data=tagged_text", f"data.path={texts}/tags.jsonl",
        "model.bidirectional=false", *MODEL,
    )  # fmt: skip
    taken = begin_from(run.task, read, where="LM")
    assert (taken.parts, taken.new) == (["inputs", "stack"], ["head"])
    assert taken.known == {"input": (2, 3)}


@pytest.mark.parametrize("task", ["classifier", "tagger"])
def test_the_presets_have_the_sizes_of_the_language_model(task: str) -> None:
    own, theirs = (
        OmegaConf.merge(*(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml") for name in names))
        for names in ((task, f"transfer_{task}"), ("language_model",))
    )
    for key in ("hidden_size", "num_layers", "residual", "layer_norm"):
        assert own[key] == theirs[key], key
    assert own.embedding_size == (theirs.embedding_size or theirs.hidden_size)
    assert not own.bidirectional


def test_the_encoder_reads_as_that_of_the_language_model(
    start: Any, texts: Path, language_model: Any
) -> None:
    read = language_model()
    run = classifier(start, texts, "model.pooling=last")
    begin_from(run.task, read, where="LM")
    task = build.task_of_checkpoint(read["unroll"]).eval()
    checkpoints.restore(task, read)
    batch = run.data.codec.batch(["the good bad"])
    ids = torch.tensor([task.codec.inputs.encode("the good bad")])
    hidden, _ = task.model(ids)
    pooled = run.task.eval().model(batch.inputs, batch.lengths).hidden
    torch.testing.assert_close(pooled, hidden[:, -1])


def test_a_run_of_the_same_task_and_data_is_taken_whole(shape: str, start: Any) -> None:
    read = saved(start(shape))
    again = start(shape, "seed=5")
    taken = begin_from(again.task, read, where="RUN")
    assert taken.new == taken.left == [] and taken.known == {}
    for name, value in again.task.state_dict().items():
        assert torch.equal(value, read["state_dict"][name])


def test_a_part_of_one_side_alone_begins_anew_or_is_left_out(start: Any) -> None:
    plain, more = start("classification"), start("classification", "seed=2")
    more.task.model.critic = nn.Linear(24, 1)
    with_critic = saved(more)
    taken = begin_from(more.task, saved(plain), where="RUN")
    assert taken.new == ["critic"] and taken.left == []
    assert begin_from(plain.task, with_critic, where="RUN").left == ["critic"]
    assert "left out: critic" in str(begin_from(plain.task, with_critic, where="RUN"))


def test_a_language_model_goes_on_with_another_vocabulary(
    start: Any, texts: Path, language_model: Any
) -> None:
    read = language_model()
    other = texts / "other"
    other.mkdir()
    (other / "train.txt").write_text("the play was good\n" * 60)
    run = start(
        "", "task=language_model", "data=text", f"data.path={other}", *MODEL,
        "data.document_end=true", "data.batch_size=2", "data.steps=5",
    )  # fmt: skip
    taken = begin_from(run.task, read, where="LM")
    assert taken.new == [] and taken.known == {"input": (3, 4)}
    model = run.task.model
    assert model.head.linear.weight is model.inputs.embedding.weight  # still tied
    bias = read["state_dict"]["model.head.linear.bias"]
    play = model.head.linear.bias[run.data.codec.inputs.table["play"]]
    torch.testing.assert_close(play, bias.mean())


def test_dropped_weights_or_zoneout_change_no_names(
    start: Any, texts: Path, language_model: Any
) -> None:
    read = language_model("recurrent.weight_drop=0.5")
    assert begin_from(classifier(start, texts).task, read, where="LM").parts == ["inputs", "stack"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cell=gru"], "its cell is LSTM, this model's GRU"),
        (["model.hidden_size=16"], "set model.hidden_size=12"),
        (["model.embedding_size=16"], "set model.embedding_size=12"),
        (["model.num_layers=1"], "set model.num_layers=2"),
        (["model.bidirectional=true"], "set model.bidirectional=false"),
        (["model.residual=true"], "trained with other settings: set model.residual=false"),
        (["model.normalise_embedding=true"], "settings: set model.normalise_embedding=false"),
        (["tokenizer.reverse=true"], "reads the other way: set tokenizer.reverse=false"),
        (["tokenizer=characters"], "knows no symbol of this data: take the tokenizer"),
    ],
)
def test_what_does_not_fit_is_named_with_its_mend(
    overrides: list[str], said: str, start: Any, texts: Path, language_model: Any
) -> None:
    task = classifier(start, texts, *overrides).task
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(ValueError) as error:
        begin_from(task, language_model(), where="LM")
    assert "init=LM" in str(error.value) and said in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in task.state_dict().items())


def test_models_that_share_no_part_are_refused(start: Any) -> None:
    read = saved(start("tagging"))
    with pytest.raises(ValueError, match="its parts are stack, head, this model's encoder"):
        begin_from(start("translation").task, read, where="RUN")


def test_other_classes_have_another_head(start: Any, texts: Path) -> None:
    read = saved(classifier(start, texts))
    rows = [f"the good play,{'yes' if i % 2 else 'no'}" for i in range(40)]
    (texts / "other.csv").write_text("text,label\n" + "\n".join(rows))
    other = classifier(start, texts, f"data.path={texts}/other.csv")
    taken = begin_from(other.task, read, where="RUN")
    assert (taken.parts, taken.new) == (["inputs", "stack"], ["head"])


def test_rows_follow_their_symbols() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    moved = remapped(values, ["a", "b", "c"], ["c", "new", "a", "c"])
    assert moved.tolist() == [[5.0, 9.0], [3.0, 5.0], [1.0, 2.0], [5.0, 9.0]]
    assert remapped(values[:, 0], ["a", "b", "c"], ["z", "b"]).tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_the_command_line_says_what_was_taken(texts: Path) -> None:
    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        common = [*MODEL, "trainer.max_steps=2", "trainer=cpu", "logger=csv"]
        return commands.run([CONFIGS.parent / "train.py", *common, *arguments], cwd=texts)

    language_model = [
        "task=language_model", "data=text", "data.path=texts", "data.document_end=true",
        "data.steps=5", "data.batch_size=2", "task.sample_length=5",
    ]  # fmt: skip
    classifier = [
        "task=classification", "data=text_labels", "data.path=mine.csv", "model.bidirectional=false"
    ]  # fmt: skip
    done = train(*language_model, "hydra.run.dir=lm")
    assert done.returncode == 0, done.stderr
    done = train(*classifier, "init=lm", "hydra.run.dir=classifier")
    assert done.returncode == 0, done.stderr
    assert "init: took inputs, stack; knows 3 of 4 input symbols" in done.stdout
    again = train(*classifier, "init=lm", "ckpt=classifier")
    assert "error: ckpt goes on with a run, init begins a new one" in again.stderr
    assert "took" not in train("ckpt=classifier", "fit=false").stdout  # nothing is read again
