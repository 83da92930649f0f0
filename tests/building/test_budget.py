"""`model.budget`: models of one size, whatever their cells."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import build
from building import budget
from data.spec import DataSpec, Vocabulary

CONFIGS = Path(__file__).parents[2] / "configs"
CELLS = sorted(path.stem for path in (CONFIGS / "cell").glob("*.yaml"))
WORDS = Vocabulary(size=100, unk_id=1, bos_id=2, eos_id=3)
LABELS = DataSpec(input_vocabulary=WORDS, labels=("no", "yes"))
TAGS = DataSpec(input_vocabulary=WORDS, labels=("no", "yes"), per_step=True)
TEXT = DataSpec(
    input_vocabulary=WORDS, output_vocabulary=WORDS, per_step=True, shared_vocabulary=True
)
PAIRS = DataSpec(input_vocabulary=WORDS, output_vocabulary=WORDS)
PICTURES = DataSpec(picture_shape=(3, 64, 64), output_vocabulary=WORDS)
MUSIC = DataSpec(input_features=88, keys=88, per_step=True)
# a model: its task, its data
MODELS = {
    "classifier": ("classification", LABELS),
    "text_classifier": ("classification", LABELS),
    "transfer_classifier": ("classification", LABELS),
    "tagger": ("tagging", TAGS),
    "text_tagger": ("tagging", TAGS),
    "transfer_tagger": ("tagging", TAGS),
    "language_model": ("language_model", TEXT),
    "music": ("language_model", MUSIC),
    "translator": ("translation", PAIRS),
    "bahdanau": ("translation", PAIRS),
    "captioner": ("captioning", PICTURES),
    "show_and_tell": ("captioning", PICTURES),
    "backbone_captioner": ("captioning", PICTURES),
}


class NoCodec:
    """A task is built without asking its codec more than whether it is of text."""

    inputs = outputs = None

    def to_plain(self) -> dict[str, Any]:
        return {}


CODEC: Any = NoCodec()
PARSER = OverridesParser.create()


@pytest.fixture(scope="module", autouse=True)
def configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(model: str, *overrides: str) -> Any:
    settled = ["task.monitor=val/loss", "task.mode=min", "paths.run_dir=unused"]
    return compose("config", [f"task={MODELS[model][0]}", f"model={model}", *settled, *overrides])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_every_model_has_a_row_here() -> None:
    assert MODELS.keys() == {path.stem for path in (CONFIGS / "model").glob("*.yaml")}


@pytest.mark.parametrize("cell", ["gru", pytest.param("lru", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_meets_a_budget(model: str, cell: str) -> None:
    config = composed(model, f"cell={cell}", "model.budget=1M")
    before = build.plain(config)["model"]
    task = build.task(config, MODELS[model][1], CODEC)
    assert count(task) == pytest.approx(1_000_000, rel=0.01)
    assert all(p.device.type == "cpu" for p in task.parameters())
    after = build.plain(config)["model"]
    assert budget._sizes(after, "embedding_size") == budget._sizes(before, "embedding_size")
    old, new = (budget._sizes(node, "hidden_size") for node in (before, after))
    assert old != new and len({new[path] / old[path] for path in old}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_meets_a_budget(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = composed("language_model", f"cell={cell}", "model.budget=1M")
    task = build.task(config, TEXT, CODEC)
    assert count(task) == pytest.approx(1_000_000, rel=0.01)
    size, said = config.model.hidden_size, capsys.readouterr().out
    assert said.startswith(f"model.budget=1M: model.hidden_size={size} has {count(task):,} ")
    assert "warning" not in said


def test_it_is_the_model_of_these_sizes_and_its_record_asks_for_no_budget() -> None:
    config = composed("classifier", "model.budget=100k", "model.hidden_size=7")
    torch.manual_seed(1)
    solved = build.task(config, LABELS, CODEC)
    torch.manual_seed(1)
    given = composed("classifier", f"model.hidden_size={config.model.hidden_size}")
    plain = build.task(given, LABELS, CODEC)
    assert solved.record == plain.record
    assert solved.record["config"]["task"]["model"]["budget"] is None
    for name, value in plain.state_dict().items():
        assert torch.equal(solved.state_dict()[name], value)


def test_round_sizes_are_preferred_and_coarse_ones_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = composed("classifier", "cell=slstm", "model.budget=2M")
    build.task(config, LABELS, CODEC)
    assert config.model.hidden_size % 8 == 0
    config = composed("classifier", "model.budget=6900")  # of which 6,400 are the embedding's
    capsys.readouterr()
    build.task(config, LABELS, CODEC)
    first, second = capsys.readouterr().out.splitlines()
    assert config.model.hidden_size == 2 and "warning" not in first
    assert second == "warning: no hidden size comes within 1% of model.budget=6900"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5M", 5_000_000), ("500k", 500_000), ("2_000_000", 2_000_000), ("1.5M", 1_500_000),
        ("1e6", 1_000_000), ("3b", 3_000_000_000), ("12345", 12_345),
    ],
)  # fmt: skip
def test_spellings_on_the_command_line(text: str, number: int) -> None:
    assert budget.parameters(PARSER.parse_override(f"model.budget={text}").value()) == number


@pytest.mark.parametrize("text", ["5X", "M", "-3M", "0", "nan", "infM", "true", "1e13", "[1,2]"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"model\.budget=.*such as 2_000_000, 1e6, 500k, 1\.5M"):
        budget.parameters(PARSER.parse_override(f"model.budget={text}").value())


def test_a_budget_below_the_smallest_model_is_refused_with_the_mend() -> None:
    config = composed("translator", "model.budget=5k")
    mend = r"a larger budget or a smaller model\.encoder\.embedding_size, model\.decoder\.emb"
    with pytest.raises(ValueError, match=rf"model\.budget=5k: .* has [\d,]+ parameters.*{mend}"):
        build.task(config, PAIRS, CODEC)
