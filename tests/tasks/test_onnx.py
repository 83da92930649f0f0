"""An exported network answers in onnxruntime as it does in PyTorch, and says what it is."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose

import build
import export
import predict
from data.piano_roll import KEYS, PianoRollCodec
from data.spec import DataSpec
from models.state import leaves
from tasks import onnx_files, onnx_graphs, onnx_networks, onnx_saving
from tasks.predict_options import PredictOptions
from tests import commands

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[onnx]'")
pytest.importorskip("onnxscript", reason="pip install -e '.[onnx]'")

ROOT = Path(export.__file__).parent
CELLS = sorted(path.stem for path in (ROOT / "configs" / "cell").glob("*.yaml"))
QUICK = {"lru"}  # the others take a minute
CLOSE = 1e-4


def some(names: list[str], quick: set[str]) -> list[Any]:
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


class Exported:
    """A task without training and its files, opened."""

    def __init__(self, task: Any, folder: Path) -> None:
        record = {"unroll": task.record, "global_step": 3}
        self.apart = onnx_files.write(task, record, folder)
        self.folder, self.model = folder, task.model
        self.about = json.loads((folder / "model.json").read_text(encoding="utf-8"))

    def __call__(self, file: str, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        session = onnxruntime.InferenceSession(self.folder / file)
        names = [one["name"] for one in self.about["files"][file]["outputs"]]
        found = session.run(names, {name: value.numpy() for name, value in feed.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    def start(self, batch: int) -> dict[str, torch.Tensor]:
        """The state before the first step, from what model.json says of it."""
        return {
            name: torch.full((batch, *first["shape"]), first["fill"])
            for name, first in self.about["initial_state"].items()
        }

    def carry(self, file: str, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        carried = self.about["files"][file]["carried"]
        return {into: found[of] for of, into in carried.items()}


def close(got: torch.Tensor, right: torch.Tensor) -> bool:
    return got.shape == right.shape and torch.allclose(got, right, rtol=CLOSE / 10, atol=CLOSE)


@pytest.mark.parametrize("cell", some([*CELLS, "hgrn_rotation"], QUICK))
@torch.no_grad()
def test_a_step_of_every_cell_is_carried_on(cell: str, start: Any, tmp_path: Path) -> None:
    name, _, more = cell.partition("_rotation")
    turned = ["cell.rotation=true"] if name != cell else []
    sizes = ["model.hidden_size=16", "model.num_layers=2", *turned]
    task = start("language_model", f"cell={name}{more}", *sizes).task
    made, model = Exported(task, tmp_path / "out"), task.model.eval()
    assert 0 <= made.apart["step.onnx"] <= CLOSE
    for batch in (1, 5):
        state, ours = model.initial_state(batch), made.start(batch)
        assert len(ours) == len(leaves(state))
        for _ in range(24):
            tokens = torch.randint(task.spec.input_vocabulary.size, (batch,))
            hidden, state = model.step(tokens, state)
            found = made("step.onnx", {"tokens": tokens, **ours})
            ours = made.carry("step.onnx", found)
            assert close(found["log_probs"], model.head.log_probs(hidden))
            assert all(map(close, ours.values(), leaves(state)))


@pytest.mark.parametrize("way", some([*CELLS, "gru one way", "mamba one way"], {"gru"}))
@torch.no_grad()
def test_padded_sequences_of_any_length_are_read_by_every_cell(
    way: str, start: Any, tmp_path: Path
) -> None:
    cell, _, one_way = way.partition(" ")
    bidirectional = not one_way
    sizes = ["model.hidden_size=12", f"model.bidirectional={bidirectional}"]
    task = start("classification", f"cell={cell}", *sizes).task
    made = Exported(task, tmp_path / "out")
    vocabulary = task.spec.input_vocabulary.size
    for lengths in ([1], [7, 3, 1], [40, 40], [13, 0, 2, 60]):
        own = torch.tensor(lengths)
        tokens = torch.randint(1, vocabulary, (len(lengths), max(lengths)))
        right = task.model.head.log_probs(task.model(tokens, own).hidden)
        found = made("sequence.onnx", {"tokens": tokens, "lengths": own})["log_probs"]
        assert close(found, right)
        junk = tokens.where(torch.arange(max(lengths)) < own[:, None], vocabulary - 1)
        assert close(made("sequence.onnx", {"tokens": junk, "lengths": own})["log_probs"], right)
    assert ("step.onnx" in made.about["files"]) is not bidirectional


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.slow
@torch.no_grad()
def test_a_tagger_step_by_step_says_what_it_says_of_the_sequence(
    labels: bool, start: Any, tmp_path: Path
) -> None:
    data = "recipes_online" if labels else "sine"
    run = start("tagging", f"data={data}", "model.bidirectional=false")
    made, several = Exported(run.task, tmp_path / "out"), []
    raw = [run.data.example("test", place).input for place in range(2)]
    batch = run.task.codec.batch(raw)
    reads, answers = ("tokens", "log_probs") if labels else ("features", "values")
    whole = made("sequence.onnx", {reads: batch.inputs, "lengths": batch.lengths})[answers]
    state = made.start(2)
    for inputs in batch.inputs.unbind(1):
        found = made("step.onnx", {reads: inputs, **state})
        several.append(found[answers])
        state = made.carry("step.onnx", found)
    steps = int(batch.lengths.min())
    assert close(torch.stack(several, 1)[:, :steps], whole[:, :steps])
    said = run.task.eval().predict(raw, PredictOptions())
    for row, answer in zip(whole, said, strict=True):
        if labels:
            tags = [run.task.spec.labels[i] for i in row.argmax(-1)[: len(answer["tags"])]]
            assert tags == answer["tags"]
        else:
            values = torch.tensor(answer["values"])
            assert close(row[: len(values)], values)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["captioning", "translation"])
@torch.no_grad()
def test_texts_are_written_as_predict_writes_them(shape: str, start: Any, tmp_path: Path) -> None:
    run = start(shape)
    torch.manual_seed(1)
    for value in run.task.parameters():  # untrained, all texts would be one symbol
        value.copy_(torch.randn_like(value) / 2)
    made = Exported(run.task, tmp_path / "out")
    raw = [run.data.example("test", place).input for place in range(3)]
    batch = run.task.codec.batch(raw)
    source = (
        {"pictures": batch.pictures}
        if shape == "captioning"
        else {"tokens": batch.source, "lengths": batch.source_lengths}
    )
    context = made("encoder.onnx", source)
    writing, length = made.about["writing"], 12
    tokens, written = torch.full((3,), writing["first"]), []
    for _ in range(length):
        found = made("decoder.onnx", {"tokens": tokens, **context})
        found["log_probs"][:, writing["never"]] = -torch.inf
        tokens = found["log_probs"].argmax(-1)
        written.append(tokens)
        context |= made.carry("decoder.onnx", found)
    texts = [run.task.text(row) for row in torch.stack(written, 1)]
    options = PredictOptions(beam_size=1, max_length=length)
    assert texts == [answer["text"] for answer in run.task.eval().predict(raw, options)]
    assert len(set(texts)) > 1


@pytest.mark.slow
@torch.no_grad()
def test_a_model_of_music_reads_keys(start: Any, tmp_path: Path) -> None:
    chosen = ["task=language_model", "data=poly_music_jsb", "model.hidden_size=12", "trainer=cpu"]
    config = compose("config", [*chosen, f"paths.run_dir={tmp_path}/run"])
    spec = DataSpec(keys=KEYS, input_features=KEYS)
    build.choose_monitor(config, spec)
    task = build.task(config, spec, PianoRollCodec())
    made, model = Exported(task, tmp_path / "out"), task.model.eval()
    keys = torch.randint(2, (3, KEYS)).float()
    hidden, _ = model.step(keys, model.initial_state(3))
    found = made("step.onnx", {"keys": keys, **made.start(3)})
    assert close(found["log_probs"], model.head.log_probs(hidden))


BESIDE = [
    ("language_model", "model/head=mixture model.head.components=3"),
    ("language_model", "model/head=adaptive model.head.cutoffs=[20]"),
    ("language_model", "cell=lstm recurrent.weight_drop=0.3 recurrent.zoneout=[0.1,0.2]"),
    ("classification", "model.pooling=attention model.residual=true model.layer_norm=true"),
    ("tagging", "data=recipes_online model.bidirectional=true recurrent.zoneout=0.1"),
    ("translation", "model.decoder.coverage=true model.decoder.input_feeding=true model.copy=true"),
    ("translation", "model.decoder.heads=2 model.encoder.bidirectional=false"),
    ("captioning", "model.decoder.attention=none cell=deltanet"),
]


@pytest.mark.slow
@pytest.mark.parametrize("shape, chosen", BESIDE)
def test_what_stands_around_the_cells_is_exported_too(
    shape: str, chosen: str, start: Any, tmp_path: Path
) -> None:
    task = start(shape, *chosen.split()).task
    torch.manual_seed(3)
    for value in task.parameters():  # what begins as 0 would show no difference
        torch.nn.init.normal_(value, std=0.3)
    assert max(Exported(task, tmp_path / "out").apart.values()) <= CLOSE


@pytest.mark.parametrize(
    "tokenizer, prompt",
    [("characters", "def x("), pytest.param("bytes", "é = (", marks=pytest.mark.slow)],
)
def test_the_example_streams_without_torch_what_predict_writes(
    tokenizer: str, prompt: str, start: Any, tmp_path: Path
) -> None:
    run = start("language_model", f"tokenizer={tokenizer}", "cell=slstm")
    torch.manual_seed(2)
    for value in run.task.parameters():  # untrained, it would repeat one symbol
        torch.nn.init.normal_(value)
    Exported(run.task, tmp_path / "out")
    code = (
        "import sys; sys.path.insert(0, 'examples'); import stream_onnx; from pathlib import Path\n"
        "for piece in stream_onnx.stream(Path(sys.argv[1]), sys.argv[2], length=40, temperature=0):"
        " sys.stdout.write(piece)\n"
        "known = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not known & {'torch', 'lightning', 'tasks', 'models', 'data'}, known\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, tmp_path / "out", prompt],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = PredictOptions(temperature=0, max_length=40)
    text = predict.Predictor(run.task, "32-true")._raw([prompt])
    answer = run.task.predict(text, options)[0]["text"]
    assert answer == prompt + done.stdout and len(set(done.stdout)) > 3


def test_what_is_not_what_pytorch_computes_is_not_given_away(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = start("language_model", "model.hidden_size=8").task

    class Off(onnx_networks.Step):
        def forward(self, inputs: Any, state: Any) -> Any:
            answers, after = super().forward(inputs, state)
            return answers + 2e-4, after

    export_of = onnx_graphs.export_of(task)
    (graph,) = export_of.graphs
    wrong = graph.__class__(**{**vars(graph), "plain": Off(task.model, onnx_networks.log_probs)})
    monkeypatch.setattr(onnx_files, "export_of", lambda _: onnx_graphs.Export([wrong]))
    with pytest.raises(ValueError, match=r"step.onnx is not what PyTorch computes.*0\.0002"):
        onnx_files.write(task, {"unroll": task.record}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_a_number_is_no_equal() -> None:
    a = torch.tensor([1.0, -torch.inf, 1000.0])
    assert onnx_saving._apart(a, a) == 0
    assert onnx_saving._apart(a + torch.tensor([0.5, 0.0, 0.0]), a) == pytest.approx(0.5)
    assert onnx_saving._apart(a + torch.tensor([0.0, 0.0, 1.0]), a) == pytest.approx(0.01)
    for wrong in (torch.nan, torch.inf):
        assert onnx_saving._apart(torch.tensor([wrong]), torch.tensor([1.0])) == np.inf
    assert onnx_saving._apart(torch.zeros(2), torch.zeros(1)) == np.inf


def test_what_cannot_be_exported_is_told(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = start("tagging", "data=recipes_online", "model/head=crf").task
    with pytest.raises(ValueError, match="CRFHead searches whole sequences.*model.head=null"):
        onnx_files.write(task, {"unroll": task.record}, tmp_path / "out")
    monkeypatch.setattr(type(task), "name", "parsing")
    with pytest.raises(ValueError, match="task=parsing does is not exported"):
        onnx_files.write(task, {"unroll": task.record}, tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript, onnxruntime: .*\.\[onnx\]"):
        onnx_files.write(task, {"unroll": task.record}, tmp_path / "out")


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["ckpt=a", "to=my.onnx"],
            "directory of several files; give to=onnx, or to=my format=onnx",
        ),
        (["ckpt=a", "to=b", "format=tflite"], "choose safetensors or onnx"),
    ],
)
def test_the_command_line_says_what_to_give_instead(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py", *given])
    with pytest.raises(ValueError, match=said):
        export.main()


@pytest.mark.slow
def test_a_run_is_exported_into_its_own_directory_and_streamed(start: Any, tmp_path: Path) -> None:
    run = start("language_model", "trainer.max_epochs=1", "trainer.limit_train_batches=2").fit()
    place = Path(run.config.paths.run_dir)

    def call(script: str, *given: str) -> str:
        done = commands.run([ROOT / script, *given], cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    said = call("export.py", f"ckpt={place}", "to=onnx")
    assert f"{place}/onnx/step.onnx" in said and "equals PyTorch within" in said
    moved = (place / "onnx").rename(tmp_path / "moved")
    given = ("import os", "--temperature", "0")
    text = call("examples/stream_onnx.py", "moved", *given, "--length", "30")
    assert text == call("predict.py", str(place), *given, "--max-length", "30", "--precision=fp32")
    about = json.loads((moved / "model.json").read_text(encoding="utf-8"))
    assert about["cell"] == "GRU" and about["fingerprint"] and about["training_step"] == 2
    assert str(tmp_path).encode() not in (moved / "step.onnx").read_bytes()
