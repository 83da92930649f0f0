"""An exported model answers as its run does, and a directory that is none is told in one line."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import export
import predict
from tasks import checkpoint as checkpoints
from tasks import exported
from tasks.predict_options import PredictOptions
from tests import commands


def trained(start: Any, shape: str, *overrides: str) -> Any:
    return start(shape, "trainer.max_epochs=1", "trainer.limit_train_batches=2", *overrides).fit()


def test_every_shape_answers_as_its_run_does(shape: str, start: Any, tmp_path: Path) -> None:
    run = trained(start, shape)
    raw = [run.data.example("test", i).input for i in range(3)]
    if shape == "language_model":
        raw = ["import ", "", "x = "]
    folder = tmp_path / "out"
    place = Path(run.config.paths.run_dir)
    export.export(place, folder)
    with torch.no_grad():
        answers = [
            predict.load(one, precision="fp32").task.predict(raw, PredictOptions(max_length=8))
            for one in (place, folder)
        ]
    assert answers[0] == answers[1]
    before, after = checkpoints.read(place), checkpoints.read(folder)
    assert before["state_dict"].keys() == after["state_dict"].keys()
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name])
    for part in ("spec", "codec", "fingerprint", "format"):
        assert before["unroll"][part] == after["unroll"][part]


def test_tied_weights_are_written_once(start: Any, tmp_path: Path) -> None:
    run = trained(start, "language_model", "model.tie_weights=true", "model.embedding_size=32")
    place = Path(run.config.paths.run_dir)
    export.export(place, tmp_path / "out")
    given = checkpoints.read(place)["state_dict"]
    stored = load_file(tmp_path / "out" / exported.WEIGHTS)
    assert len(stored) < len(given)
    assert sum(value.numel() for value in stored.values()) == sum(
        parameter.numel() for parameter in run.task.parameters()
    )
    assert checkpoints.read(tmp_path / "out")["state_dict"].keys() == given.keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it leaves an exported classifier for the others."""
    return tmp_path_factory.mktemp("made") / "small"


@pytest.fixture
def small(made: Path, start: Any, tmp_path: Path) -> Path:
    """A copy of an exported classifier whose run was tested."""
    if not made.exists():
        run = trained(start, "classification", "model.hidden_size=8")
        run.test()
        export.export(run.config.paths.run_dir, made)
    return shutil.copytree(made, tmp_path / "small")


def test_what_is_measured_and_made_is_said(small: Path) -> None:
    card = (small / "README.md").read_text(encoding="utf-8")
    content = json.loads((small / "config.json").read_text(encoding="utf-8"))
    assert "# Classification with GRU, on recipes" in card and "hidden_size 8" in card
    parameters = sum(p.numel() for p in predict.load(small).task.parameters())
    assert f"- Parameters: {parameters:,}\n" in card
    assert f"- test/accuracy: {content['measured']['test/accuracy']:.6g}\n" in card
    assert content["fingerprint"] in card and "predict.py small" in card


def test_nothing_in_it_tells_where_the_run_was(start: Any, tmp_path: Path) -> None:
    run = trained(start, "classification", f"paths.cache_dir={tmp_path}/cache")
    folder = export.export(run.config.paths.run_dir, tmp_path / "out")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "codec.json", "config.json", "weights.safetensors"]
    assert not [name for name in files if str(tmp_path).encode() in (folder / name).read_bytes()]
    assert "Nothing: the run was not tested" in (folder / "README.md").read_text(encoding="utf-8")


def test_an_export_is_exported_again(small: Path, tmp_path: Path) -> None:
    again = export.export(small, tmp_path / "again")
    for name in (exported.CONFIG, exported.CODEC, exported.WEIGHTS):
        assert (again / name).read_bytes() == (small / name).read_bytes()


def test_a_directory_that_holds_anything_stays_as_it_is(small: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"full is not empty \(it holds mine.txt\)"):
        export.export(small, full)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match=r"mine.txt is a file"):
        export.export(small, full / "mine.txt")


def test_training_does_not_go_on_from_weights_alone(small: Path) -> None:
    with pytest.raises(ValueError, match=r"small/weights.* weights alone.*init="):
        checkpoints.check_goes_on(checkpoints.read(small))


def test_an_older_version_is_brought_up_and_a_later_one_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(small, lambda content: content.update(hash=content.pop("fingerprint"), version=1))
    monkeypatch.setattr(exported, "VERSION", 2)
    monkeypatch.setattr(
        exported, "OLDER", {1: lambda content: {**content, "fingerprint": content["hash"]}}
    )
    assert checkpoints.read(small)["unroll"]["fingerprint"]
    change(small, lambda content: content.update(version=3))
    with pytest.raises(ValueError, match="version 3; this Unroll reads up to 2"):
        checkpoints.read(small)


def change(folder: Path, by: Callable[[dict[str, Any]], Any]) -> None:
    """Change config.json, and make its checksums those of the files beside it."""
    path = folder / exported.CONFIG
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in content["sha256"]:
        content["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    by(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def rewrite(folder: Path, **fields: Any) -> None:
    """Change fields of the codec, and the checksum with them."""
    path = folder / exported.CODEC
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **fields}), encoding="utf-8")
    change(folder, lambda content: None)


def cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def reshape(folder: Path) -> None:
    path = folder / exported.WEIGHTS
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("head.linear.bias"))
    save_file({**weights, name: torch.zeros(7)}, path)
    change(folder, lambda content: None)


def swap(folder: Path) -> None:
    path = folder / exported.WEIGHTS
    save_file({name: 0 * value for name, value in load_file(path).items()}, path)


def flip(folder: Path) -> None:
    path = folder / exported.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights of another shape": (reshape, r"head.linear.bias has shape \(7,\)"),
    "weights of another model": (swap, "weights.safetensors is not the file that was exported"),
    "a bit that fell over": (flip, "weights.safetensors is not the file that was exported"),
    "weights cut short": (lambda f: cut(f / "weights.safetensors", 0.7), "safetensors: it is cut"),
    "weights cut in the header": (lambda f: cut(f / "weights.safetensors", 0.01), "it is cut"),
    "a header of exabytes": (
        lambda f: (f / "weights.safetensors").write_bytes(b"\xff" * 7 + b"\0{}"), "it is cut"
    ),
    "no codec": (lambda f: (f / "codec.json").unlink(), "codec.json cannot be read"),
    "a codec cut short": (lambda f: cut(f / "codec.json", 0.5), "codec.json cannot be read as"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), "cannot be read as JSON"),
    "nested without end": (lambda f: (f / "config.json").write_text(DEEP), "cannot be read as"),
    "nested deep": (lambda f: (f / "codec.json").write_text(f'{{"a": {"[" * 99}{"]" * 99}}}'),
                    "nested deeper than 64"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
    "a number": (lambda f: (f / "codec.json").write_text("3"), "holds a int"),
    "no version": (lambda f: change(f, lambda c: c.pop("version")), "version None"),
    "a version of text": (lambda f: change(f, lambda c: c.update(version="1")), "version '1'"),
    "a later record": (lambda f: change(f, lambda c: c.update(format=99)), "has format 99"),
    "a config of text": (lambda f: change(f, lambda c: c.update(config="x")), r"no config \(dict"),
    "a spec of numbers": (lambda f: change(f, lambda c: c.update(spec={"labels": 3})), "no model"),
    "a task that is none": (lambda f: change(f, lambda c: c["config"].update(task=3)), "no model"),
    "a codec of numbers": (lambda f: rewrite(f, inputs=3), "codec is none of Unroll"),
    "a tokenizer that is none": (
        lambda f: rewrite(f, inputs={"tokenizer": "x"}), "codec is none of Unroll"
    ),
    "a symbol that is none": (
        lambda f: change(f, lambda c: c["spec"]["input_vocabulary"].update(pad_id=None)), "no model"
    ),
    "measured words": (lambda f: change(f, lambda c: c.update(measured={"a": "b"})), "no numbers"),
    "ties to nothing": (lambda f: change(f, lambda c: c.update(tied={"a": "b"})), "ties a to 'b'"),
    "ties to a list": (lambda f: change(f, lambda c: c.update(tied={"a": []})), "ties a to"),
    "another class": (
        lambda f: change(f, lambda c: c["config"]["task"].update(_target_="os.system")), "os.system"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_directory_made_to_do_harm_ends_in_one_error(name: str, small: Path) -> None:
    harm, said = HOSTILE[name]
    harm(small)
    with pytest.raises(ValueError, match=said) as caught:
        predict.load(small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [[], ["ckpt=a"], ["ckpt=a", "to="], ["ckpt=a", "into=b"], ["a"]])
def test_the_command_line_says_what_it_takes(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py", *given])
    with pytest.raises(ValueError, match="ckpt=RUN_OR_FILE to=DIRECTORY"):
        export.main()


@pytest.mark.slow
def test_a_run_is_exported_predicted_and_tested_from_the_command_line(
    start: Any, tmp_path: Path
) -> None:
    run = trained(start, "classification", "model.hidden_size=8")
    run.test()
    place, root = str(run.config.paths.run_dir), Path(export.__file__).parent

    def call(script: str, *given: str) -> str:
        done = commands.run([root / script, *given], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = call("export.py", f"ckpt={place}", "to=out")
    assert "out/weights.safetensors" in said
    answers = [call("predict.py", one, "heat oil", "--format", "json") for one in (place, "out")]
    assert answers[0] == answers[1]
    own = ["data.train_size=64", "data.validation_size=32", "data.test_size=32", "precision=fp32"]
    tested = call("train.py", "fit=false", "ckpt=out", "trainer=cpu", "logger=csv", *own)
    measured = json.loads((tmp_path / "out" / "config.json").read_text())["measured"]
    assert json.loads(tested.splitlines()[-1])["test"] == pytest.approx(measured, rel=1e-5)
    refused = commands.run([root / "export.py", f"ckpt={place}", "to=out"], cwd=tmp_path)
    assert refused.returncode == 1 and refused.stderr.startswith("error: out is not empty")
