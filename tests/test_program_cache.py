"""Compiled programs from one command to the next: where they are kept, how many, and what becomes of broken ones."""

import json
import os
import pathlib
import re
import subprocess
import sys
import warnings

import pytest

from ditask_jax import program_cache
from ditask_jax.errors import OutputWarning
from ditask_jax.program_cache import DIR, OFF, keep_programs, kind_of_processor, make_space

ROOT = pathlib.Path(__file__).resolve().parents[1]
VARIABLES = (DIR, OFF, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that has neither a cache nor JAX yet."""
    monkeypatch.setenv("DITASK_CACHE_DIR", str(tmp_path / "cache"))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set afterwards is taken back
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return tmp_path / "cache" / "compiled"


def test_a_folder_for_this_processor_is_named_to_jax_and_said_once(fresh, capsys):
    folder = keep_programs()
    assert folder.parent == fresh
    assert os.environ[DIR] == str(folder)
    assert kind_of_processor() in folder.name
    line = capsys.readouterr().err
    assert re.fullmatch(
        rf"compiled programs are kept in \S+/compiled, at most 2 GiB; {OFF}=false turns that off\n", line
    )
    # The next command, and one that this one starts, which inherits the variable.
    assert keep_programs() == folder
    del os.environ[DIR]
    assert keep_programs() == folder
    assert capsys.readouterr().err == ""


def test_what_the_user_says_holds(fresh, monkeypatch):
    monkeypatch.setenv(OFF, "false")
    assert keep_programs() is None
    monkeypatch.delenv(OFF)
    monkeypatch.setenv(DIR, "/somewhere/else")
    assert keep_programs() is None
    assert os.environ[DIR] == "/somewhere/else"
    monkeypatch.delenv(DIR)
    monkeypatch.setitem(sys.modules, "jax", None)  # loaded already: a notebook that calls a command's function
    assert keep_programs() is None
    assert not fresh.exists()
    assert DIR not in os.environ


def test_a_folder_that_cannot_be_used_is_one_line(fresh):
    fresh.parent.mkdir()
    fresh.write_text("a file")
    with pytest.warns(
        OutputWarning, match=r"^compiled programs: cannot use \S+ \(Not a directory\); compiling anew\. "
    ):
        assert keep_programs() is None
    assert DIR not in os.environ


def test_processors_that_differ_in_instructions_share_nothing():
    x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\nflags\t\t: fpu avx2{}\ncpu MHz\t\t: {}\n\nnext: 1"
    same = {kind_of_processor(x86.format("", speed)) for speed in (2400, 3100)}
    assert len(same) == 1
    assert kind_of_processor(x86.format(" avx512f", 2400)) not in same
    arm = "processor : 0\nFeatures : fp asimd{}\nCPU implementer : 0x41\nCPU part : {}\n"
    assert len({kind_of_processor(arm.format(*f)) for f in (("", "0xd0c"), (" sve", "0xd0c"), ("", "0xd40"))}) == 3


def test_the_least_recently_used_go_first(tmp_path):
    """Over all folders; a file counts as used when it was written or read."""
    for age, name in enumerate(("a/read-cache", "a/newest-cache", "b/middle-cache", "b/oldest-cache")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    os.utime(tmp_path / "a/read-cache", (1001, 1))
    left = lambda: {path.name.removesuffix("-cache") for path in tmp_path.rglob("*-cache")}
    make_space(tmp_path, 40)
    assert left() == {"read", "newest", "middle", "oldest"}
    make_space(tmp_path, 39)
    assert left() == {"read", "newest", "middle"}
    make_space(tmp_path, 15)
    assert left() == {"read"}


# Compiles one program again and again, each time as a new process would: what JAX has in memory is dropped.
_PROGRAM = """
import collections, json, pathlib, sys
from ditask_jax import program_cache, shell
shell.show_warnings()
folder = program_cache.keep_programs()
import jax
counted = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counted.update([event.rsplit("/")[-1]]))
program = jax.jit(lambda x: x * 2 + 1)
values = []

def start():
    counted.clear()
    jax.clear_caches()
    values.append(float(program(3.0)))
    return {name: counted[name] for name in ("cache_hits", "cache_misses")}

def spoil(change):
    for path in folder.glob("jit__lambda-*-cache"):
        path.write_bytes(change(path.read_bytes()))

found = {"cold": start(), "warm": start()}
spoil(lambda content: content[: len(content) // 2])
found |= {"damaged": start(), "healed": start()}
spoil(lambda content: __import__("zlib").compress(b"of another program"))
found |= {"foreign": start(), "healed again": start()}
print(json.dumps([found, values]))
"""


def test_what_was_compiled_is_found_again_and_what_is_broken_compiled_anew(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"DITASK_CACHE_DIR": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found, values = json.loads(done.stdout)
    hit, missed = {"cache_hits": 1, "cache_misses": 0}, {"cache_hits": 0, "cache_misses": 1}
    for name in ("cold", "damaged", "foreign"):
        assert found[name] == missed, name
    for name in ("warm", "healed", "healed again"):
        assert found[name] == hit, name
    assert values == [7.0] * 6
    said, warned = done.stderr.splitlines()  # of two broken entries the first is named
    assert said.startswith("compiled programs are kept in ")
    assert re.fullmatch(r"warning: compiled programs: one in \S+ is passed over, reading it failed \(.*\); .*", warned)


def test_a_disk_that_is_full_is_one_line(fresh, capsys):
    folder = keep_programs()
    (folder / "jit_step-0123-cache").write_bytes(b"a part")
    (folder / "jit_step_two-0123-cache").write_bytes(b"whole")
    shown = []
    warnings.showwarning = program_cache._in_one_line(folder, lambda message, *_: shown.append(str(message)))
    for program in ("jit_step", "jit_other"):
        text = f"Error writing persistent compilation cache entry for '{program}': OSError: [Errno 28] No space left"
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(UserWarning(text), stacklevel=1)
    assert [path.name for path in folder.iterdir()] == ["jit_step_two-0123-cache"]
    (line,) = shown
    assert "writing it failed (OSError: [Errno 28] No space left)" in line
