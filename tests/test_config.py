"""Configuration files, overrides, checks, JSON and differences; wrong input is always one line that names the field."""

import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base
from ditask_jax.config import config_diff, flatten, from_json, load_config, to_json, validate
from ditask_jax.errors import ConfigError

CHECKOUT = pathlib.Path(__file__).parents[1]
PASCAL = str(CHECKOUT / "configs" / "pascal_swin_tiny.py")
FIELDS = sorted(flatten(base.get_config()))


def _file(tmp_path, text):
    path = tmp_path / "experiment.py"
    path.write_text(text)
    return str(path)


def test_loads_from_any_folder_with_a_variant_and_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (PASCAL, "configs/pascal_swin_tiny.py", pathlib.Path(PASCAL)):
        assert load_config(source).method.name == "ditask"
    config = load_config(
        PASCAL + ":frozen", ["batch_size=8", "--config.optimizer.learning_rate=1e-3", "config.seed=3", "batch_size=16"]
    )
    assert (config.method.name, config.batch_size, config.seed) == ("frozen", 16, 3)
    assert config.optimizer.learning_rate == 1e-3
    assert config.is_locked


def test_a_file_of_ones_own_stands_on_the_base_from_anywhere(tmp_path, monkeypatch):
    text = (
        "from configs.base import get_config as base\ndef get_config():\n c = base()\n c.total_steps = 5\n return c\n"
    )
    path = _file(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert load_config("experiment.py").total_steps == 5
    own = tmp_path / "configs"
    own.mkdir()
    (own / "mine.py").write_text(
        "from configs import base, near\ndef get_config(): return near.edit(base.get_config())\n"
    )
    (own / "near.py").write_text("def edit(c):\n c.total_steps = 6\n return c\n")
    assert load_config("configs/mine.py").total_steps == 6
    assert load_config(path, {"total_steps": 7, "image_size": (64, 96)}).image_size == (64, 96)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("image_size=224", 224),
        ("image_size=448,320", (448, 320)),
        ("image_size=(448, 320)", (448, 320)),
        ("image_size=448x320", (448, 320)),
        ("total_steps=1e4", 10_000),
        ("total_steps=none", None),
        ("total_epochs=3", 3.0),
        ("optimizer.betas=0.8,0.9", (0.8, 0.9)),
        ("optimizer.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("optimizer.milestones=100,200.5", (100, 200.5)),
        ("optimizer.clip_norm=none", None),
        ("remat=none", "none"),
        ("optimizer.surgery=None", "none"),
        ("optimizer.decay_thetas=false", False),
        ("optimizer.decay_thetas=True", True),
        ("method.shared_layers=qkv,proj", ("qkv", "proj")),
        ("method.shared_layers=('qkv',)", ("qkv",)),
        ("method.task_layers=", ()),
        ("head.widths=18,36", (18, 36)),
        ("tasks=semseg+depth", "semseg+depth"),
        ("data.root=/a folder/with=signs", "/a folder/with=signs"),
        ("data.scale=0.5,2", (0.5, 2.0)),
    ],
)
def test_overrides_are_read_by_the_type_of_the_field(override, value):
    config = load_config(PASCAL, [override], check=override != "total_steps=none")
    found = flatten(config)[override.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "optimizr.learning_rate=1",
            "config: optimizr: unknown field. Did you mean 'optimizer'? Known: backbone batch_size",
        ),
        (
            "learning_rate=1",
            "config: learning_rate: unknown field. Did you mean 'optimizer.learning_rate'? Known: backbone",
        ),
        ("method.headrom=2", "config: method.headrom: unknown field. Did you mean 'headroom'? Known: bottleneck"),
        ("batch_size.x=2", "config: batch_size.x: unknown field, 'batch_size' is a single value"),
        ("optimizer=2", "config: optimizer: is a group of fields; set one of them. Known: accumulate betas clip_norm"),
        ("batch_size=abc", "config: batch_size: got 'abc', expected an integer"),
        ("batch_size=3.5", "config: batch_size: got '3.5', expected an integer"),
        ("batch_size", "config: batch_size: no value; write --config.batch_size=VALUE"),
        ("optimizer.learning_rate=fast", "config: optimizer.learning_rate: got 'fast', expected a number"),
        ("optimizer.learning_rate=nan", "config: optimizer.learning_rate: got 'nan', expected a finite number"),
        ("optimizer.decay_thetas=maybe", "config: optimizer.decay_thetas: got 'maybe', expected true or false"),
        ("optimizer.betas=0.9", "config: optimizer.betas: got (0.9,), expected two numbers in [0, 1)"),
        ("batch_size=0", "config: batch_size: got 0, expected an integer from 1 up"),
        ("optimizer.learning_rate=-1", "config: optimizer.learning_rate: got -1.0, expected a number above 0"),
        ("method.dropout=1", "config: method.dropout: got 1.0, expected a number in [0, 1)"),
        ("backbone.drop_path_rate=-0.1", "config: backbone.drop_path_rate: got -0.1, expected a number in [0, 1)"),
        ("method.headroom=0.9", "config: method.headroom: got 0.9, expected a number at least 1"),
        ("method.shared_cells=1", "config: method.shared_cells: got 1, expected an integer from 2 up"),
        ("method.task_cells=none", "config: method.task_cells: got None, expected an integer from 2 up"),
        (
            "method.domain=values",
            "config: method.domain: unknown name 'values'. Did you mean 'value'? Known: value index",
        ),
        ("method.init=zero", "config: method.init: unknown name 'zero'. Known: identity upstream"),
        (
            "method.execution=fast",
            "config: method.execution: unknown name 'fast'. Did you mean 'factored'? Known: auto",
        ),
        ("method.shared_layers=fc1,fc1", "config: method.shared_layers: got ('fc1', 'fc1'), expected each layer once"),
        ("optimizer.schedule=cosin", "config: optimizer.schedule: unknown name 'cosin'. Did you mean 'cosine'?"),
        ("optimizer.milestones=5,4", "config: optimizer.milestones: got (5, 4), expected rising epochs"),
        ("optimizer.schedule=multistep", "config: optimizer.milestones: empty, but optimizer.schedule is multistep"),
        ("optimizer.schedule_lag=2", "config: optimizer.schedule_lag: got 2, expected 0 or 1"),
        ("image_size=0", "config: image_size: got 0, expected pixels of a side, or height,width"),
        ("image_size=1,2,3", "config: image_size: got (1, 2, 3), expected pixels of a side"),
        ("image_size=big", "config: image_size: got 'big', expected pixels of a side"),
        ("total_epochs=none", "config: total_steps: got None, and total_epochs too; set one, for example"),
        ("tasks=", "config: tasks: got '', expected a name"),
        ("data.name=folder", "config: data.root: got None, expected the folder of your images"),
        ("data.scale=2,1", "config: data.scale: got (2.0, 1.0), expected low,high with 0 < low <= high"),
        ("data.rotation=200", "config: data.rotation: got 200.0, expected a number of degrees in [0, 180]"),
        ("data.val_fraction=1", "config: data.val_fraction: got 1.0, expected a number in (0, 1) or none"),
        ("data.mask_ignore=255", "config: data.mask_ignore: got '255', expected true or false"),
        ("data.subfolders=all", "config: data.subfolders: got 'all', expected true or false"),
        ("data.depth_unit=feet", "config: data.depth_unit: unknown name 'feet'. Known: metres"),
        ("compute_dtype=float16", "config: compute_dtype: unknown name 'float16'. Did you mean 'bfloat16'?"),
        ("head.widths=0", "config: head.widths: got (0,), expected channels per stage above 0"),
        ("", "config: '': no value"),
        ("=3", "config: : unknown field."),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_field(override, line):
    with pytest.raises(ConfigError) as caught:
        load_config(PASCAL, [override])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_warmup_above_and_minimum_rate_above_the_base():
    with pytest.raises(ConfigError, match=r"optimizer.min_learning_rate: 0\.1 is above"):
        load_config(PASCAL, ["optimizer.schedule=cosine", "optimizer.min_learning_rate=0.1"])
    with pytest.raises(ConfigError, match="batch_size: got 'x', expected an integer"):
        load_config(PASCAL, {"batch_size": "x"})
    with pytest.raises(ConfigError, match=r"optimizer\.betas: got 3, expected a tuple"):
        load_config(PASCAL, {"optimizer.betas": 3})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_config(:\n", "config: experiment.py, line 1: syntax error"),
        ("x = 1\nimport nothing_of_this_name\n", "config: experiment.py, line 2: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return 1 / 0\n", "config: experiment.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "config: experiment.py, line 2: SystemExit: 3"),
        ("x = 1\n", "config: {path}: defines no get_config(); start from configs/base.py"),
        ("def get_config(): return 3\n", "config: {path}: get_config() returned a int, expected a ConfigDict"),
        (
            "def get_config(variant): return variant\n",
            "config: experiment.py: needs a variant; write experiment.py:VARIANT",
        ),
        (
            "from configs import base\ndef get_config():\n c = base.get_config()\n c.optimizer.lr = 1.0\n return c\n",
            "config: experiment.py, line 4: unknown field 'lr'. Fields and their defaults are listed in configs/base",
        ),
        (
            "from configs import base\ndef get_config():\n c = base.get_config()\n c.batch_size = 'x'\n return c\n",
            "config: experiment.py, line 4: TypeError: Could not override field 'batch_size'",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()\n",
            "config: tasks: missing; start from configs/base.py, which holds every field",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, line):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(line.format(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("configs/pascal_swin_tyni.py", "config: configs/pascal_swin_tyni.py: no such file"),
        (
            "configs/pascal_swin_tiny.py:fronzen",
            "config: pascal_swin_tiny variant: unknown name 'fronzen'. Did you mean 'frozen'?",
        ),
        ("configs/base.py:x", "config: base.py: takes no variant, got ':x'; write the path alone"),
        ("configs", "config: 'configs': expected a Python file such as configs/scenes.py"),
        ("", "config: '': expected a Python file"),
        ("a\0.py", "config: 'a\\x00.py': expected a Python file"),
    ],
)
def test_a_wrong_path_or_variant(source, line):
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert str(caught.value).startswith(line)
    if "tyni" in source:
        assert "Did you mean 'pascal_swin_tiny.py'?" in str(caught.value)


_texts = st.one_of(
    st.sampled_from(
        ["", "none", "1", "-1", "0", "1e400", "nan", "(", "(1,", "1,2", "[[1]]", "True", "{}", "9" * 400, "x:y"]
    ),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(repr),
)


@given(name=st.one_of(st.sampled_from(FIELDS), st.text(max_size=12)), text=_texts)
@settings(max_examples=400, deadline=None)
def test_no_override_ends_in_a_traceback(name, text):
    line = "config: "
    try:
        config = load_config(PASCAL, [f"{name}={text}"])
        validate(from_json(to_json(config)))
    except ConfigError as error:
        line = str(error)
    assert line.startswith("config: ")


PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1).filter(str.strip)


@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31 - 1),
            "total_steps": st.one_of(st.none(), st.integers(1, 10**6)),
            "image_size": st.one_of(st.integers(1, 999), st.tuples(st.integers(1, 999), st.integers(1, 999))),
            "optimizer.learning_rate": st.floats(1e-300, 1e300),
            "optimizer.clip_norm": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "optimizer.milestones": st.sets(st.integers(1, 500), max_size=4).map(sorted).map(tuple),
            "data.root": st.one_of(st.none(), PATHS),
        },
    )
)
@settings(max_examples=60, deadline=None)
def test_json_round_trip_is_exact(changes):
    config = load_config(PASCAL, {name: value for name, value in changes.items() if not isinstance(value, str)})
    if changes.get("data.root"):
        config.data.root = changes["data.root"]
    back = from_json(to_json(config))
    assert flatten(back) == flatten(config)
    assert {n: type(v) for n, v in flatten(back).items()} == {n: type(v) for n, v in flatten(config).items()}
    assert config_diff(config, back) == []
    assert to_json(back) == to_json(config)
    validate(back)
    assert back.is_locked


def test_wrong_json_and_values_json_cannot_hold():
    with pytest.raises(ConfigError, match=r"config: runs/config.json: not valid JSON .*line 1 column 2"):
        from_json("{", source="runs/config.json")
    with pytest.raises(ConfigError, match="got a list, expected a JSON object"):
        from_json("[]")
    with pytest.raises(ConfigError, match=r"config: a\.b: got .*expected a finite number, text"):
        to_json(ConfigDict({"a": {"b": object()}}))
    with pytest.raises(ConfigError, match="config: x: got nan"):
        to_json(ConfigDict({"x": float("nan")}))


def test_difference_names_fields_and_both_values():
    old, new = load_config(PASCAL), load_config(PASCAL + ":full", ["optimizer.learning_rate=0.002", "total_steps=7"])
    assert config_diff(old, new) == [
        "method.name: 'ditask' -> 'full'",
        "optimizer.learning_rate: 0.0005 -> 0.002",
        "total_steps: None -> 7",
    ]


def test_every_field_has_a_comment_and_is_checked():
    """A field added to the base without a comment above it, or that no rule looks at, is a mistake."""
    lines = (CHECKOUT / "configs" / "base.py").read_text().splitlines()
    commented = False
    for line in lines:
        is_field = line.startswith("    config.")
        if is_field and "ConfigDict()" not in line:
            assert commented, f"no comment above {line.strip()}"
        # A comment may stand over a pair of fields that belong together.
        commented = line.startswith("    #") or (commented and is_field)
    for name in FIELDS:
        config = load_config(PASCAL)
        group, _, key = name.rpartition(".")
        with (config[group] if group else config).unlocked() as holder:
            del holder[key]
        with pytest.raises((ConfigError, AttributeError), match=key):
            validate(config)


def test_json_is_plain():
    fields = json.loads(to_json(load_config(PASCAL, ["image_size=64,96"])))
    assert fields["image_size"] == [64, 96]
    assert fields["total_steps"] is None
    assert fields["optimizer"]["eps"] == 1e-8
