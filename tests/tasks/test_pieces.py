"""Written and real pieces of one size, and the audit of them that a test leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import build
from building.trained import of_checkpoint
from data.specials import EOS, UNK
from data.text import TextStreams
from models.cells.gru import GRU
from models.language_model import LanguageModel
from tasks.audit_report import audit, parts
from tasks.pieces import CONTEXT, pieces, play, spread, starts, write

AUDIT = ["task.evaluation.audit=true", "task.evaluation.audit_pieces=9"]


def text(*unknown: int, length: int = 40) -> np.ndarray:
    ids = np.arange(10, 10 + length, dtype=np.uint8)
    ids[list(unknown)] = UNK
    return ids


def test_pieces_stand_one_after_the_other_behind_their_contexts() -> None:
    before, after = spread([text()], count=99, length=10, context=5)
    assert before[:, -1].tolist() == [14, 24, 34] and before.shape == (3, 5)
    assert after[:, 0].tolist() == [15, 25, 35] and after.shape == (3, 10)
    assert after.ravel().tolist() == list(range(15, 45))


def test_unknown_symbols_are_in_no_piece() -> None:
    assert list(starts(text(7, 9), context=5, length=10)) == [10, 20, 30]
    assert list(starts(text(4, 15, 39), context=5, length=10)) == [5, 16, 26]
    assert list(starts(text(*range(40)), context=5, length=1)) == []
    assert list(starts(text(length=14), context=5, length=10)) == []


def test_fewer_pieces_are_spread_over_the_text_and_documents_do_not_join() -> None:
    _, after = spread([text(), text(length=14), text()], count=2, length=10, context=5)
    assert after[:, 0].tolist() == [15, 35]
    music = [np.eye(20, 88, dtype=bool), np.ones((7, 88), bool)]
    before, after = spread(music, count=5, length=8, context=4)
    assert before.shape == (2, 4, 88) and after.shape == (2, 8, 88)
    assert after[1].argmax(-1).tolist() == list(range(12, 20))


def test_pieces_are_halved_where_the_text_has_too_few() -> None:
    _, after = spread([np.arange(4000) % 50 + 10], count=200, length=400, context=100)
    assert after.shape == (3900 // 50, 50)  # 19 of 200 symbols, 39 of 100
    _, after = spread([np.arange(220) % 50 + 10], count=200, length=400, context=100)
    assert after.shape == (4, 25)  # and no shorter
    with pytest.raises(ValueError, match="100 symbols .* 25 known ones .*audit_length below 25"):
        spread([text(length=120)], count=3, length=400, context=100)


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    made = LanguageModel(
        vocabulary_size=9, keys=None, pad_id=0, unk_id=1, cell=GRU, embedding_size=6, hidden_size=6,
    )  # fmt: skip
    return made.eval()


def test_what_is_written_goes_on_from_its_context(model: LanguageModel) -> None:
    contexts = torch.randint(2, 9, (5, 12), generator=torch.Generator().manual_seed(1))
    found = write(model, contexts, length=20, seed=3, forbidden=(0, 1, 2), temperature=0)
    row = contexts[4:]
    for place in range(20):  # greedy, each symbol by reading everything before it
        hidden, _ = model(row)
        likeliest = model.head.log_probs(hidden[:, -1])[:, 3:].argmax(-1) + 3
        assert int(likeliest) == int(found[4, place])
        row = torch.cat([row, likeliest[:, None]], 1)


def test_what_is_drawn_depends_on_the_seed_and_on_no_other_row(model: LanguageModel) -> None:
    contexts = torch.full((40, 3), 5)
    found = write(model, contexts, length=30, seed=3, forbidden=(0, 1, 4))
    assert len(found.unique(dim=0)) == 40
    assert set(found.unique().tolist()) == {2, 3, 5, 6, 7, 8}
    alone = write(model, contexts[:1], length=30, seed=10, forbidden=(0, 1, 4))
    assert torch.equal(alone[0], found[7])


def test_music_is_drawn_as_the_model_expects_it() -> None:
    model = LanguageModel(
        vocabulary_size=None, keys=88, pad_id=0, unk_id=None, cell=GRU, embedding_size=None,
        hidden_size=6, tie_weights=False,
    ).eval()  # fmt: skip
    head: Any = model.head
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias[:40], -20)
    torch.nn.init.constant_(head.linear.bias[40:], 1.0)
    contexts = torch.zeros(30, 4, 88)
    found = play(model, contexts, length=20, seed=1)
    assert found.shape == (30, 20, 88) and not found[..., :40].any()
    assert float(found[..., 40:].mean()) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.01)
    assert torch.equal(found, play(model, contexts, length=20, seed=1))
    bolder = play(model, contexts, length=20, seed=1, temperature=0.5)
    assert float(bolder[..., 40:].mean()) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.01)
    assert play(model, contexts, length=20, seed=1, temperature=0)[..., 40:].all()


# The whole audit


def test_a_test_leaves_the_audit_beside_numbers_that_stay(start: Any, tmp_path: Path) -> None:
    plain = start("language_model").test()
    run = start("language_model", *AUDIT)
    assert run.test() == plain
    found = json.loads((tmp_path / "run2" / "audit.json").read_text(encoding="utf-8"))
    assert found == run.task.audited
    assert found["settings"] | {"seed": 0} == {
        "pieces": 9, "length": 400, "context": CONTEXT, "seed": 0, "temperature": 0.8,
        "top_k": None, "top_p": None,
    }  # fmt: skip
    assert list(found["written"]) == list(found["real"])
    assert found["real"]["definitions_parse"] is not None  # the data are programs
    # letters at random against real programs
    assert found["written"]["copied_2"] < 0.5 * found["real"]["copied_2"]
    assert found["written"]["lines_parse"] < 0.5 < found["real"]["lines_parse"]
    run.task._leave_audit()  # draws the same again
    assert run.task.audited == found


def test_training_that_is_written_again_is_found_whole(start: Any) -> None:
    run = start("language_model", *AUDIT)
    run.task._trainer = type("Trained", (), {"datamodule": run.data})()
    training = run.task.documents("train")
    run.task.documents = lambda split: training  # held-out text that is training text
    real = audit(run.task)["real"]
    assert real["copied_8"] > 0.95  # but for words that the ends of pieces cut
    assert real["lines_copied"] == 1.0 and real["novel_lines"] == 0.0
    assert real["longest_copied"] > 0.9 * real["words"] / 9


def test_pieces_are_of_one_size_and_without_symbols_that_are_no_text(start: Any) -> None:
    run = start("language_model", "tokenizer.vocab_size=60", "model.dropout=0.9")
    run.task._trainer = type("Trained", (), {"datamodule": run.data})()
    contexts, real, written = pieces(run.task, count=7, length=50, splits=("test", "validation"))
    assert real.shape == written.shape == (7, 50) and contexts.shape == (7, CONTEXT)
    for symbols in (real, written):
        assert not set(run.task.never) & set(symbols.unique().tolist())
    assert UNK in run.task.documents("test")[0] and run.task.training


def music(folder: Path) -> list[str]:
    rows = [{"notes": [[39, 43, 46 + (i + t) % 3 * 2] for t in range(60)]} for i in range(30)]
    lines = "\n".join(map(json.dumps, rows))
    (folder / "music.jsonl").write_text(lines, encoding="utf-8")
    return ["task=language_model", "data=piano_roll", f"data.path={folder}/music.jsonl",
            "model.hidden_size=16"]  # fmt: skip


def test_music_is_audited_too(start: Any, tmp_path: Path) -> None:
    run = start("none", *music(tmp_path), *AUDIT)
    run.test()
    found = json.loads((tmp_path / "run1" / "audit.json").read_text(encoding="utf-8"))
    assert found["training"] == {"lowest": 60, "highest": 71, "longest": 60}
    # rows are dealt to splits by their number, and there are only three different ones
    assert found["real"]["copied_8"] == found["real"]["in_scale"] == 1.0
    assert found["real"]["out_of_range"] == 0.0 < found["written"]["out_of_range"]
    assert found["written"]["copied_1"] < 1.0
    assert found["settings"]["length"] == 25


def test_training_text_is_read_in_parts_that_cut_no_line(start: Any) -> None:
    run = start("language_model")
    codec, ids = run.data.codec, run.data.splits["train"].flat("ids")
    texts = [codec.text(some) for some in parts(codec, ids, 700)]
    assert "".join(texts) == codec.text(ids) and len(texts) > 5
    assert all(part.endswith("\n") for part in texts[:-1])
    assert [len(some) for some in parts(codec, np.full(1500, 50), 700)] == [700, 700, 100]
    assert EOS in ids


def test_what_cannot_be_audited_is_refused_before_any_work(start: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"audit_pieces is 2 to .*, got 1"):
        start("language_model", "task.evaluation.audit_pieces=1")
    lines = "\n".join(f"line {i} of a book" for i in range(3000))
    (tmp_path / "book.txt").write_text(lines, encoding="utf-8")
    run = start(
        "none", "task=language_model", "data=text", f"data.path={tmp_path}/book.txt", AUDIT[0],
        "data.streaming=true", "data.held_out=100", "trainer.max_steps=2", "model.hidden_size=8",
        "tokenizer=characters",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"fit=false ckpt=RUN data\.streaming=false"):
        run.fit()
    short = start("language_model", *AUDIT)
    short.data.splits["test"].arrays["ids"] = text(length=120)
    with pytest.raises(ValueError, match="audit_length below 25"):
        short.test()


def test_programs_are_told_by_the_name_of_their_file(start: Any, tmp_path: Path) -> None:
    lines = "\n".join(f"def f_{i}(x):\n    return x + {i}\n" for i in range(400))
    file = tmp_path / "program.py"
    file.write_text(lines, encoding="utf-8")
    asked = ["task=language_model", "data=text", "tokenizer=characters", "model.hidden_size=8"]
    run = start("none", *asked, f"data.path={file}", *AUDIT)
    run.test()
    assert run.task.audited["real"]["definitions_parse"] == 1.0
    assert run.task.audited["real"]["lines_copied"] == 0.0 < run.task.audited["real"]["lines"]
    assert isinstance(run.data, TextStreams) and run.data.language == "python"
    (tmp_path / "book.txt").write_text(lines, encoding="utf-8")
    assert start("none", *asked, f"data.path={tmp_path}/book.txt").data.language is None


def test_a_checkpoint_from_before_the_audit_takes_it_too(start: Any) -> None:
    config = start("language_model", *AUDIT).config
    config.fit = False
    stored = build.plain(config)
    for name in ("audit", "audit_pieces", "audit_length"):
        del stored["task"]["evaluation"][name]
    merged = build.plain(of_checkpoint(config, stored, AUDIT))
    assert merged["task"]["evaluation"]["audit"] is True
    assert "audit_length" not in merged["task"]["evaluation"]
