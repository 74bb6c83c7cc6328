"""The report as HTML: well-formed, complete, self-contained, and safe whatever runs are called."""

import html.parser
import itertools
import json
import re

import pytest

from ditask_jax import cli, report
from ditask_jax.errors import CheckpointError
from ditask_jax.plots.curves import Curves, draw_chart
from ditask_jax.plots.example_images import read_examples
from ditask_jax.reports import find_runs
from ditask_jax.reports.report_html import report_page
from tests.reports.folders import write_run
from tests.reports.pages import write_shown_run

EMPTY = {"img", "input", "meta", "link", "br", "hr"}
NASTY = "<script>alert('x')</script>"


class Page(html.parser.HTMLParser):
    """Elements of a page; raises where tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes), tuple(self.open)))
        if name not in EMPTY:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open, f"</{name}> closes nothing"
        assert self.open.pop() == name

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, name):
        return [attributes for found, attributes, _ in self.elements if found == name]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    write_shown_run(root / "thetas", 1.5)
    write_shown_run(root / NASTY.replace("/", "_"), -3.0, ("method.name=frozen", "data.root=&<b>\"'"))
    return Page(report_page(find_runs([root])))


def test_the_page_is_one_file(two):
    for _, attributes, _ in two.elements:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    policies = [found["content"] for found in two.all("meta") if found.get("http-equiv")]
    assert "default-src 'none'" in policies[0]


def test_what_texts_of_a_run_say_stays_text(two):
    assert len(two.all("script")) == 1
    assert "alert('x')" in " ".join(two.text)
    assert "&<b>\"'" in two.text


def test_headings_are_in_order_and_contents_lead_somewhere(two):
    levels = [int(name[1]) for name, _, _ in two.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    identities = [(attributes["id"], "svg" in open) for _, attributes, open in two.elements if "id" in attributes]
    assert len(dict(identities)) == len(identities)
    assert [found["href"][1:] for found in two.all("a")] == [name for name, in_chart in identities if not in_chart]
    assert all(found.get("alt") for found in two.all("img"))


def test_scores_stand_beside_the_references(two):
    text = " ".join(two.text)
    references = {"semseg": 23.93, "depth": 1.68}
    assert f"{references['semseg'] * 1.015:.2f}" in text
    assert f"{references['semseg'] * 0.97:.2f}" in text
    assert "single task, full fine-tuning" in text
    assert "No published scores of scenes are known" in text
    assert "450 steps, seed 0: python -m ditask_jax.references" in text
    assert "2 × a chip" in text


def test_charts_are_in_the_page_with_its_colours(two):
    charts = [found for found in two.all("div") if found.get("class") == "chart"]
    assert [found["aria-label"].partition(" by step, at the end ")[0] for found in charts] == [
        "training loss", "delta_m", "semseg mIoU", "depth rmse", "semseg training loss", "learning rate",
    ]  # fmt: skip
    drawn = [(attributes, open) for _, attributes, open in two.elements if "svg" in open and "defs" not in open]
    styles = " ".join(attributes.get("style", "") for attributes, _ in drawn)
    assert {"--s0", "--s1", "--quiet", "--rule"} == set(re.findall(r"var\((--\w+)\)", styles))
    assert "#" not in styles
    names = {attributes["id"] for _, attributes, _ in two.elements if "id" in attributes}
    used = [found["xlink:href"][1:] for found in two.all("use")]
    assert used
    assert set(used) <= names
    assert "thetas, step 6: 0.1667" in two.text


def test_images_per_example_task_and_run(two):
    # Input and two targets once, predictions of both runs; three images.
    assert len(two.all("img")) == 3 * (1 + 2 * (1 + 2))
    examples = [found for found in two.all("div") if "data-example" in found]
    assert ["hidden" in found for found in examples] == [False, True, True]
    slider = next(found for found in two.all("input") if found["type"] == "range")
    assert (slider["min"], slider["max"]) == ("1", "3")
    switches = [found["data-task"] for found in two.all("input") if found.get("role") == "switch"]
    assert switches == ["semseg", "depth"]


def test_every_table_is_whole(two):
    text = report_tables(two)
    assert text
    for rows in text:
        assert len(set(rows)) == 1, rows


def report_tables(page):
    """Cells per row, table by table."""
    tables, current = [], None
    for name, _, _ in page.elements:
        if name == "table":
            current = []
            tables.append(current)
        elif name == "tr":
            current.append(0)
        elif name in ("td", "th"):
            current[-1] += 1
    return tables


def test_published_rows_and_what_differs_are_named(tmp_path):
    write_run(tmp_path / "run", 2.0, ("total_steps=9", "image_size=224"), "configs/pascal_swin_tiny.py", examples=70)
    text = " ".join(Page(report_page(find_runs([tmp_path]))).text)
    for words in ("MTLoRA r64", "Free Sinewich r64", "arXiv 2502.06029", "224 here, 448 there", "70 here, 5105 there"):
        assert words in text
    assert "No images of run" in text


def test_a_run_without_evaluation_or_log(tmp_path):
    folder = write_run(tmp_path / "young", overrides=("tasks=depth", "backbone.name=swin_test", "image_size=64",
                                                      "backbone.weights=none"))  # fmt: skip
    (folder / "evaluation.json").unlink()
    (folder / "metrics.jsonl").unlink()
    text = " ".join(Page(report_page(find_runs([folder], evaluated=False))).text)
    assert "not evaluated yet" in text
    assert "No run has logged two steps" in text


def test_a_run_with_a_method_and_a_head_of_a_plug_in_that_is_not_loaded(tmp_path):
    folder = write_run(tmp_path / "theirs", overrides=("method.name=full",))
    fields = json.loads((folder / "config.json").read_text())
    fields["method"], fields["head"] = {"name": "their_method", "power": 2.5}, {"name": "their_head", "knots": 7}
    (folder / "config.json").write_text(json.dumps(fields))
    scores = json.loads((folder / "evaluation.json").read_text())
    counts = {"groups": {"heads": 1500}, "total": 2000}
    (folder / "evaluation.json").write_text(json.dumps(scores | counts))
    run = find_runs([folder])[0]
    assert run.config.head.per_task is None
    assert run.config.head.knots == 7
    text = " ".join(Page(report_page([run])).text)
    assert "their_method" in text


def test_images_that_are_gone_are_one_line(tmp_path):
    folder = write_shown_run(tmp_path / "run")
    entry = read_examples(folder / "examples")["examples"][1]
    (folder / "examples" / entry["tasks"]["depth"]["target"]["file"]).unlink()
    with pytest.raises(CheckpointError, match=r"report: '.*depth_target.png' cannot be read"):
        report_page(find_runs([folder]))
    (folder / "examples" / "examples.json").write_text("{")
    assert "No images of run" in report_page(find_runs([folder]))


def test_the_command(tmp_path, capsys):
    write_shown_run(tmp_path / "run", images=1)
    out = tmp_path / "new" / "report.html"
    assert cli.execute(report.main, [str(tmp_path / "run"), f"--out={out}", "--title=Tea & cake"]) == 0
    assert "wrote" in capsys.readouterr().out
    assert "<title>Tea &amp; cake</title>" in out.read_text(encoding="utf-8")
    before = out.read_bytes()
    for arguments, words in (
        ([], "--out: missing"),
        ([f"--out={out}"], "RUN: missing"),
        (["no_such_run", f"--out={out}"], "'no_such_run' is no folder"),
        ([str(tmp_path), str(tmp_path / "run"), f"--out={out}"], "is named twice"),
        ([str(tmp_path / "run"), "--out=report.pdf"], "expected a file that ends in .html"),
        ([str(tmp_path / "run"), f"--out={out}", "--images=-1"], "expected a whole number"),
        ([str(tmp_path / "run"), f"--out={out}", "--titel=x"], "Did you mean '--title'"),
    ):
        assert cli.execute(report.main, arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert out.read_bytes() == before


def test_damaged_scores_are_one_line(tmp_path, capsys):
    folder = write_shown_run(tmp_path / "run", images=0)
    (folder / "evaluation.json").write_text(json.dumps({"step": 1, "scores": []}))
    assert cli.execute(report.main, [str(folder), f"--out={tmp_path / 'x.html'}"]) == 2
    assert "has no scores by task" in capsys.readouterr().err


def test_long_lines_keep_their_extremes():
    steps = list(range(1, 5001))
    values = [1.0 if step != 2500 else 9.0 for step in steps]
    curves = lambda *series: [Curves("a & b", {"loss": series})]
    chart = draw_chart(curves(steps, values), "loss", "x")
    band = re.search(r'<defs>\s*<path id="x-\w+" d="([^"]+)"', chart)[1]
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", band)]
    assert 240 < len(places) < 1000
    assert max(y for _, y in places) - min(y for _, y in places) > 100
    assert "<title>a &amp; b</title>" in chart
    assert draw_chart(curves([1], [2.0]), "loss", "x") is None
    assert draw_chart(curves([1, 2], [2.0, 1.0]), "score", "x") is None
    assert draw_chart(curves([1, 2], [0.0, 0.0]), "loss", "x") is not None
