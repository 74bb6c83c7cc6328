"""Configuration files, overrides, checks, JSON and differences; wrong input is always one line that names the field."""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base
from ditask_jax import config as config_module
from ditask_jax.adapters import method_names
from ditask_jax.config import config_diff, flatten, from_json, load_config, to_json, validate
from ditask_jax.config_fields import CHOSEN, chosen_options
from ditask_jax.config_sections import SECTIONS
from ditask_jax.errors import ConfigError
from ditask_jax.options import options_of

CHECKOUT = pathlib.Path(__file__).parents[1]
PASCAL = str(CHECKOUT / "configs" / "pascal_swin_tiny.py")
FIELDS = sorted(flatten(base.get_config()))
BASE = "from ditask_jax.config import base_config\ndef get_config():\n c = base_config()\n "


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


def test_a_name_finds_the_file_of_the_package_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pascal_swin_tiny").mkdir()
    (tmp_path / "smoke.py").write_text("raise SystemExit")
    for name in ("pascal_swin_tiny", "pascal_swin_tiny:frozen", "smoke"):
        stem, colon, variant = name.partition(":")
        source = f"{CHECKOUT / 'configs' / stem}.py{colon}{variant}"
        assert to_json(load_config(name)) == to_json(load_config(source))
    (tmp_path / "mine.py").write_text(f"{BASE}return c\n")
    with pytest.raises(
        ConfigError, match=r"a file of your own is named by its path, with .py; to take the file, write"
    ):
        load_config("mine")


def test_an_installed_package_has_its_configurations_inside(tmp_path, monkeypatch):
    """Where the wheel puts them is where names, and paths that begin with configs/, are looked up."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    target = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["configs"]
    package = tmp_path / "site-packages" / "ditask_jax"
    assert config_module._above_configs(package) == package.parent
    shutil.copytree(CHECKOUT / "configs", package.parent / target)
    root = config_module._above_configs(package)
    monkeypatch.setattr(config_module, "_ROOT", root)
    monkeypatch.chdir(tmp_path)
    for source in ("table6", "configs/table6.py", "configs/table6.py:full"):
        path, _ = config_module.find_file(source)
        assert path == package / "configs" / "table6.py"
        assert load_config(source).data.name == "scenes"
    assert set(config_module.packaged("configs/sweeps")) >= {"smoke", "table6"}


def test_a_file_of_ones_own_stands_on_the_base_from_anywhere(tmp_path, monkeypatch):
    path = _file(tmp_path, f"{BASE}c.total_steps = 5\n return c\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("experiment.py").total_steps == 5
    own = tmp_path / "configs"
    own.mkdir()
    (own / "mine.py").write_text(
        "from ditask_jax.config import base_config, recipe\nnear = recipe(__file__, 'near.py')\n"
        "def get_config(): return near.edit(base_config())\n"
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
        ("method.headrom=2", "config: method.headrom: unknown field. Did you mean 'headroom'? 'ditask' has: domain"),
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
        ("x = 1\n", "config: {path}: defines no get_config(); start from {smoke}"),
        ("def get_config(): return 3\n", "config: {path}: get_config() returned a int, expected a ConfigDict"),
        (
            "def get_config(variant): return variant\n",
            "config: experiment.py: needs a variant; write experiment.py:VARIANT",
        ),
        (
            f"{BASE}c.optimizer.lr = 1.0\n return c\n",
            "config: experiment.py, line 4: unknown field 'lr'; python -m ditask_jax.describe --options lists",
        ),
        (
            f"{BASE}c.method.rank = 4\n return c\n",
            "config: method.rank: an option of 'dora' 'faar' 'lora' 'vera'; 'ditask' has: domain",
        ),
        (
            f"{BASE}c.batch_size = 'x'\n return c\n",
            "config: experiment.py, line 4: TypeError: Could not override field 'batch_size'",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()\n",
            "config: tasks: missing; start from ditask_jax.config.base_config",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, line):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    smoke = (CHECKOUT / "configs" / "smoke.py").resolve()
    assert str(caught.value).startswith(line.format(path=path, smoke=smoke))
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
        ("configs/", "config: 'configs/': expected a name such as scenes or scenes:VARIANT, or a Python file"),
        ("", "config: '': expected a name"),
        ("a\0.py", "config: 'a\\x00.py': expected a name"),
        (
            "scene:full",
            "config: 'scene': no file of that name comes with the package. Did you mean 'scenes'? Known: base",
        ),
        ("scenes:fulll", "config: scenes variant: unknown name 'fulll'. Did you mean 'full'?"),
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


@pytest.mark.parametrize("method", method_names())
def test_every_field_has_a_line_of_help_and_is_checked(method):
    """Of every section, method and head: one line, which ends like a sentence, and a rule that refuses some value."""
    head = "linear" if method == "frozen" else "hrnet"
    config = load_config(PASCAL, [f"method.name={method}", f"head.name={head}"])
    found = set()
    for section in SECTIONS:
        for name, option in declared_options(config, section).items():
            field = f"{section}.{name}".lstrip(".")
            found.add(field)
            assert option.help.endswith("."), field
            assert "\n" not in option.help
            assert option.expected, field
            with pytest.raises(ConfigError, match=re.escape(f"config: {field}: got")):
                option.check(f"config: {field}", object())
    assert found == set(flatten(config))


def declared_options(config, section):
    own = dict(options_of(SECTIONS[section]))
    return own | dict(chosen_options(section, config[section].name)) if section in CHOSEN else own


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_is_named(name):
    config = load_config(PASCAL)
    group, _, key = name.rpartition(".")
    with (config[group] if group else config).unlocked() as holder:
        del holder[key]
    with pytest.raises(ConfigError, match=f"config: {name}: missing"):
        validate(config)


# Options of methods and heads, which belong to these alone.


@pytest.mark.parametrize("method", method_names())
def test_an_option_of_another_method_is_refused_by_its_owner(method):
    own = chosen_options("method", method)
    others = {name for other in method_names() for name in chosen_options("method", other)} - set(own)
    for name in sorted(others):
        owners = [f"'{other}'" for other in method_names() if name in chosen_options("method", other)]
        line = f"config: method.{name}: an option of {' '.join(owners)}; "
        for way in (
            lambda name=name: load_config(PASCAL, [f"method.name={method}", f"method.{name}=1"]),
            lambda name=name: validate(with_field(load_config(PASCAL, [f"method.name={method}"]), name)),
        ):
            with pytest.raises(ConfigError) as caught:
                way()
            assert str(caught.value).startswith(line)
            assert f"'{method}' has: {' '.join(sorted(own)) or 'no options'}" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["method.name=lora", "method.shared_rank=2"],
            "an option of 'lora_xs' 'mtlora' 'psoft'; 'lora' calls it 'rank' since version 0.2; ",
        ),
        (["method.train_scales=true", "method.name=mtlora"], "unknown field. 'mtlora' calls it 'scale_trains' since"),
        (["method.nam=lora"], "unknown field. Did you mean 'name'? 'ditask' has: domain "),
        (["method.shard_cells=3"], "unknown field. Did you mean 'shared_cells'? 'ditask' has: domain "),
    ],
)
def test_options_of_version_0_1_and_misspelt_ones_are_told_their_name(overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(PASCAL, overrides)


def with_field(config, name):
    """The same as a run folder's file would give it, with one field too many."""
    fields = json.loads(to_json(config))
    fields["method"][name] = 1
    return from_json(json.dumps(fields))


def test_names_come_first_whatever_the_order():
    for overrides in itertools.permutations(["method.name=lora", "method.rank=8", "method.dropout=0.5"]):
        config = load_config(PASCAL, overrides)
        assert (config.method.name, config.method.rank, config.method.dropout) == ("lora", 8, 0.5)
    config = load_config(PASCAL, ["method.rank=2", "method.name=full", "method.name=dora"])
    assert (config.method.name, config.method.rank) == ("dora", 2)
    config = load_config(PASCAL, {"head.widths": (1, 2, 3, 4), "head.name": "hrnet", "method.name": "full"})
    assert config.head.widths == (1, 2, 3, 4)
    assert set(config.method) == {"name"}
    with pytest.raises(ConfigError, match=r"method\.rank: an option of 'dora' .* 'vera'; 'full' has: no options"):
        load_config(PASCAL, ["method.name=lora", "method.rank=2", "method.name=full"])


def test_options_that_go_with_another_name_are_said(capsys):
    config = load_config("configs/smoke.py", ["method.name=lora", "head.name=linear", "method.rank=2"])
    assert capsys.readouterr().err.splitlines() == [
        "config: method.name: 'lora' in place of 'ditask' drops its options: method.shared_cells=4 method.task_cells=4",
        "config: head.name: 'linear' in place of 'hrnet' drops its options: head.widths=(4, 4, 4, 4)",
    ]
    assert flatten(config)["method.rank"] == 2
    # What the file did not set is no loss, nor is a name that stays.
    load_config(PASCAL, ["method.name=lora"])
    load_config("configs/smoke.py", ["method.name=ditask", "method.task_cells=5"])
    assert capsys.readouterr().err == ""
    lines = []
    load_config("configs/scenes.py", {"method.name": "svf"}, say=lines.append)
    assert lines == ["config: method.name: 'svf' in place of 'ditask' drops its options: method.dropout=0.0"]


def test_a_name_that_a_file_sets_brings_its_options(tmp_path):
    path = _file(tmp_path, f"{BASE}c.method.name = 'lora'\n c.method.rank = 8\n c.total_steps = 1\n return c\n")
    assert load_config(path).method.rank == 8
    path = _file(tmp_path, f"{BASE}c.method.name = 'loro'\n return c\n")
    with pytest.raises(ConfigError, match=r"config: method\.name: unknown name 'loro'. Did you mean 'lora'"):
        load_config(path)


def test_a_file_that_imports_its_base_as_before_is_told_how_now(tmp_path):
    """Where no folder `configs` is on Python's path: a file of one's own, away from the checkout."""
    _file(tmp_path, "from configs import base\ndef get_config(): return base.get_config()\n")
    code = "from ditask_jax.config import load_config\nload_config('experiment.py')"
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    (tmp_path / "ditask_jax").symlink_to(CHECKOUT / "ditask_jax")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert "config: experiment.py, line 1: configs is no package: write `from ditask_jax.config import base_con" in last


def test_a_configuration_of_version_0_1_is_read_and_a_newer_one_refused():
    """Of all methods' options side by side those of the run's method are left, under the names they have now."""
    fields = json.loads(to_json(load_config(PASCAL, ["method.name=lora", "method.rank=8", "method.scale=4.0"])))
    assert fields.pop("format") == "ditask_jax/config/2"
    method = {"name": "lora", "shared_cells": 64, "shared_rank": 8, "task_rank": 4, "shared_scale": 4.0}
    method |= {"train_scales": False, "shared_layers": ["qkv", "proj", "fc1", "fc2"], "task_layers": ["fc1"]}
    method |= {name: fields["method"][name] for name in ("dropout", "unfrozen")} | {"mode": "matrix", "bottleneck": 64}
    old = fields | {"method": method}
    found = from_json(json.dumps(old))
    validate(found)
    assert config_diff(found, load_config(f"{PASCAL}:lora_r8")) == []
    # A plug-in that is not loaded keeps what it has.
    strange = fields | {"method": {"name": "own", "power": 2.0}}
    assert from_json(json.dumps(strange)).method.power == 2.0
    old["head"] = {"name": "linear", "widths": None}
    assert dict(from_json(json.dumps(old)).head) == {"name": "linear"}
    with pytest.raises(ConfigError) as caught:
        from_json(json.dumps(fields | {"format": "ditask_jax/config/3"}), source="run/config.json")
    assert str(caught.value).startswith("config: run/config.json: of format 'ditask_jax/config/3', this version ")
    assert "reads 'ditask_jax/config/2' and 'ditask_jax/config/1'; update the package" in str(caught.value)


def test_json_is_plain():
    fields = json.loads(to_json(load_config(PASCAL, ["image_size=64,96"])))
    assert fields["image_size"] == [64, 96]
    assert fields["total_steps"] is None
    assert fields["optimizer"]["eps"] == 1e-8
