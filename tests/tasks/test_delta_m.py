"""Delta m against published tables, and the files of reference scores."""

import json
import pathlib

import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.tasks import DATASETS, create_tasks, delta_m, delta_m_of, load_references

ROWS = json.loads((pathlib.Path(__file__).parent / "data" / "published_rows.json").read_text())
DIRECTIONS = {"semseg": True, "human_parts": True, "sal": True, "normals": False, "depth": False, "edge": True}
FRACTIONS = ("semseg", "human_parts", "sal", "edge")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['dataset']}: {row['method']}, {row['pretraining']}")
def test_published_rows(row):
    scores = {
        name: {"mIoU": value / 100} if name in FRACTIONS else {"mean": value, "rmse": value}
        for name, value in row["scores"].items()
    }
    chosen = create_tasks(list(row["scores"]), dataset=row["dataset"])
    got = delta_m_of(chosen, scores, load_references(row["dataset"]))
    assert got == pytest.approx(row["delta_m"], abs=row["tolerance"])


def test_directions_of_the_tasks():
    known = create_tasks("semseg+human_parts+sal+normals+depth+edge", dataset="scenes")
    assert {task.name: task.higher_is_better for task in known} == DIRECTIONS


def test_delta_m_of_equal_scores_is_zero_and_better_is_positive():
    references = {"semseg": 0.5, "depth": 0.6}
    assert delta_m(references, references, DIRECTIONS) == 0.0
    assert delta_m({"semseg": 0.55, "depth": 0.6}, references, DIRECTIONS) == pytest.approx(5.0)
    assert delta_m({"semseg": 0.5, "depth": 0.54}, references, DIRECTIONS) == pytest.approx(5.0)
    assert delta_m({"depth": 0.66}, references, DIRECTIONS) == pytest.approx(-10.0)


def test_delta_m_needs_a_usable_reference():
    with pytest.raises(ConfigError, match="delta_m: no scores given"):
        delta_m({}, {"semseg": 1.0}, DIRECTIONS)
    with pytest.raises(ConfigError, match="delta_m: task without a reference score: unknown name 'depth'"):
        delta_m({"depth": 1.0}, {"semseg": 1.0}, DIRECTIONS)
    with pytest.raises(ConfigError, match="reference score of 'depth': got 0, expected a positive number"):
        delta_m({"depth": 1.0}, {"depth": 0}, DIRECTIONS)


def test_delta_m_of_a_run_is_unavailable_without_reference_or_score():
    chosen = create_tasks("semseg+depth", dataset="nyud")
    references = load_references("nyud")
    scores = {"semseg": {"mIoU": 0.4265}, "depth": {"rmse": 0.6, "log_rmse": 0.2}}
    assert delta_m_of(chosen, scores, references) == pytest.approx(0.0)
    assert delta_m_of(chosen, scores, {}) is None
    assert delta_m_of(chosen, {"semseg": {"mIoU": 0.4265}, "depth": {}}, references) is None


@pytest.mark.parametrize("dataset", DATASETS)
def test_references_in_the_package_fit_their_tasks(dataset):
    references = load_references(dataset)
    assert set(references) <= set(DATASETS[dataset].tasks)
    assert (dataset in ("pascal", "nyud")) <= bool(references)
    num_classes = {"folder": {"semseg": 5}, "vtab": {"classification": 10}}.get(dataset)
    for task in create_tasks(list(DATASETS[dataset].tasks), dataset=dataset, num_classes=num_classes):
        if task.unit == "fraction" and task.name in references:
            assert references[task.name] < 1


def write(folder, content) -> pathlib.Path:
    file = folder / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_users_can_bring_their_own_references(tmp_path):
    entry = {"scores": {"depth": {"metric": "rmse", "value": 0.5}, "edge": {"metric": "odsF", "value": 0.7}}}
    assert load_references("scenes", write(tmp_path, entry)) == {"depth": 0.5, "edge": 0.7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([1], "has no object 'scores'"),
        ({"source": "x"}, "has no object 'scores'"),
        ({"scores": {"semsg": {}}}, "scores: unknown name 'semsg'. Did you mean 'semseg'?"),
        ({"scores": {"sal": 0.6}}, "scores.sal.metric: got None, expected 'mIoU'"),
        ({"scores": {"sal": {"metric": "maxF", "value": 0.6}}}, "scores.sal.metric: got 'maxF', expected 'mIoU'"),
        ({"scores": {"sal": {"metric": "mIoU"}}}, "scores.sal.value: got None, expected a positive number"),
        ({"scores": {"depth": {"metric": "rmse", "value": 0}}}, "scores.depth.value: got 0, expected a positive"),
        ({"scores": {"sal": {"metric": "mIoU", "value": 62}}}, "expected a fraction in 0..1, not per cent"),
    ],
)
def test_bad_reference_files_end_in_one_line(tmp_path, content, message):
    with pytest.raises(ConfigError) as caught:
        load_references("scenes", write(tmp_path, content))
    assert message in str(caught.value)
    assert "mine.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_reference_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"references: '.*none\.json' is not a file"):
        load_references("scenes", tmp_path / "none.json")
