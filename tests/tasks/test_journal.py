"""What a resumed run finds in the files that it appends to."""

from pathlib import Path

from tasks import journal


def write(path: Path, *rows: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def test_rows_after_the_checkpoint_are_cut_but_those_of_its_step(tmp_path: Path) -> None:
    metrics, samples = tmp_path / "metrics.csv", tmp_path / "samples" / "val.jsonl"
    write(metrics, "step,epoch,train/loss", "0,0,3.5")
    write(samples, '{"step": 1}')
    counts = journal.lines(tmp_path)
    assert counts == {"metrics.csv": 2, "samples/val.jsonl": 1}
    # saved after the second step, whose row comes just after; then two more steps, the last torn
    write(metrics, "step,epoch,train/loss", "0,0,3.5", "1,0,3.4", "2,0,3.3")
    metrics.write_text(metrics.read_text() + "3,0,3.")
    write(samples, '{"step": 1}', '{"step": 3}')
    write(tmp_path / "drift.csv", "step,nll", "3,2.0")
    journal.cut(tmp_path, counts, step=2)
    assert metrics.read_text().splitlines() == ["step,epoch,train/loss", "0,0,3.5", "1,0,3.4"]
    assert samples.read_text().splitlines() == ['{"step": 1}']
    assert not (tmp_path / "drift.csv").exists()


def test_a_header_that_grew_since_stays(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    write(metrics, "step,train/loss", "0,3.5")
    counts = journal.lines(tmp_path)
    write(metrics, "step,train/loss,val/loss", "0,3.5,", "4,,3.2")
    journal.cut(tmp_path, counts, step=1)
    assert metrics.read_text().splitlines() == ["step,train/loss,val/loss", "0,3.5,"]
