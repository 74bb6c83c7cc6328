"""Paths as users write them; atomic writes: the old content or the new, and nothing left behind; locks."""

import contextlib
import errno
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.files import (
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    json_text,
    local_locks,
    locked,
    parse_json,
    user_path,
)


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = atomic_write_text(tmp_path / "new" / "a.txt", "old")

    def half(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_files_are_shared_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic_write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_json_keeps_every_bit_and_the_order(tmp_path):
    value = {"z": 1 / 3, "a": [1, None, "ä"], "m": 5e-324}
    path = atomic_write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text()) == value
    assert list(json.loads(path.read_text())) == ["z", "a", "m"]
    assert "ä" in path.read_text(encoding="utf-8")


def test_json_has_null_for_what_is_no_finite_number(tmp_path):
    bad = [float("nan"), float("inf"), -float("inf"), np.float64("nan")]
    value = {"a": bad[0], "b": [1.5, (bad[1], {"c": bad[2]})], "d": {"e": bad[3], "f": True, "g": "NaN", "h": 2**70}}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": {"e": None, "f": True, "g": "NaN", "h": 2**70}}
    texts = [json_text(value), json_text(value, indent=2), json_text(value, ascii=True)]
    texts.append(atomic_write_json(tmp_path / "a.json", value).read_text())
    for text in texts:
        assert json.loads(text, parse_constant=pytest.fail) == expected
    assert value["a"] is bad[0]  # the value itself is left alone


def test_files_of_older_versions_are_read():
    """Python writes and reads NaN and Infinity unless told otherwise."""
    old = json.dumps({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.0]})
    assert parse_json(old) == {"a": None, "b": [None, None, 1.0]}
    assert parse_json(old.encode()) == parse_json(old)
    with pytest.raises(ValueError, match="Expecting"):
        parse_json("{")


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    for name in ("x" * 255, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 85, "\udcff" * 255):
        assert os.path.getsize(atomic_write_text(tmp_path / name, "whole")) == 5


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/run",
        "gs://bucket/run",
        "GS://bucket/run",
        " gs://bucket/run",
        "https://host/x",
        "hdfs://node:9000/x",
        "abfss://c@account.dfs.core.windows.net/x",
        "my+store.v2://x",
        "file:///home/x",
        "file:/home/x",
        "dbfs:/x",
        pathlib.Path("s3://bucket/run"),
        pathlib.Path("http://host/x"),
    ],
)
def test_urls_are_no_paths(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^out: '.*' is a URL, expected a local path; ") as caught:
        user_path(url, "out")
    assert ("write '/home/x'" in str(caught.value)) == str(url).startswith("file:")
    with pytest.raises(ConfigError, match="is a URL"):
        atomic_write_text(url, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a:b", "run:/x", "1://x", "a/s3://b", "s3", "s3:bucket", "12:30/x", "C:x"])
def test_colons_alone_make_no_url(name):
    assert user_path(name) == pathlib.Path(name)


def test_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == user_path(pathlib.Path("~/x")) == tmp_path / "x"
    assert user_path("~") == tmp_path
    assert user_path("~root") == pathlib.Path(pwd.getpwnam("root").pw_dir)
    assert user_path("a/~/b") == pathlib.Path("a/~/b")
    # A folder of that name, here: once found, it stays the same however often it is asked for.
    here = user_path("./~/x")
    assert user_path(here) == here == pathlib.Path(os.getcwd(), "~/x")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigError, match=r"^out: '~/x': there is no home folder here; set HOME"):
        user_path("~/x", "out")


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_texts_that_are_no_paths(text):
    with pytest.raises(ConfigError, match=r"^out: got "):
        user_path(text, "out")


@contextlib.contextmanager
def held_elsewhere(path, **options):
    """While entered, another thread holds a lock."""
    taken, done = threading.Event(), threading.Event()

    def hold():
        with locked(path, "workdir", "training", "wait", **options):
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(60)
        yield done
    finally:
        done.set()
        thread.join()


LOCKS = """
import os, signal, subprocess, sys, time
from ditask_jax.files import locked
with locked(sys.argv[1], "workdir", "training", "wait"):
    # Both outlive this process, with every descriptor that it has left open to them.
    started = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
    forked = os.fork()
    if not forked:
        if os.fork():
            sys.exit()  # leaves the block: the lock is its parent's
        os.close(1)
        time.sleep(60)
        os._exit(0)
    os.waitpid(forked, 0)
    print(started.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_ends_with_its_process_and_not_with_those_it_started(tmp_path):
    path = tmp_path / "run/.lock"
    command = [sys.executable, "-c", LOCKS, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen(command, **pipes, process_group=0)
    try:
        holder.stdout.readline()
        before = path.read_bytes()
        with (
            pytest.raises(CheckpointError) as caught,
            locked(path, "workdir", "training", "use another --workdir", CheckpointError),
        ):
            pass
        line = str(caught.value)
        assert line.startswith(
            f"workdir: another training is working in '{path.parent}' (host {socket.gethostname()}, "
        )
        assert re.search(rf"pid {holder.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, by .*python", line)
        assert "; use another --workdir. If its machine is gone for good, delete " in line
        # Whoever was refused has changed nothing, and reading who it is has not ended the lock.
        assert path.read_bytes() == before
        with pytest.raises(ConfigError, match=f"pid {holder.pid}"), locked(path, "workdir", "training", "wait"):
            pass
        holder.stdin.write("die\n")
        holder.stdin.flush()
        assert holder.wait(60) == -signal.SIGKILL
        assert path.exists()
        with locked(path, "workdir", "training", "wait"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


def test_a_lock_in_one_process(tmp_path):
    path = tmp_path / "new/run/.lock"
    found = []

    def enter(nested):
        try:
            with locked(path, "workdir", "evaluation", "wait", nested=nested):
                found.append("entered")
        except ConfigError as error:
            found.append(str(error))

    with locked(path, "workdir", "training", "wait"):
        enter(nested=False)
        thread = threading.Thread(target=enter, args=(True,))
        thread.start()
        thread.join()
        enter(nested=True)
        assert path.exists()
    here = f"workdir: another training is working in '{path.parent}' (this process, pid {os.getpid()}); wait. "
    assert [text.startswith(here) for text in found] == [True, True, False]
    assert found[2] == "entered"
    # Nothing is left, not the folders made for it either.
    assert list(tmp_path.iterdir()) == []
    with locked(path, "workdir", "training", "wait"):
        (path.parent / "kept").write_text("x")
    assert [entry.name for entry in path.parent.iterdir()] == ["kept"]


def test_waiting_for_a_lock(tmp_path):
    path = tmp_path / ".lock"
    with held_elsewhere(path) as done:
        threading.Timer(0.3, done.set).start()
        with locked(path, "workdir", "evaluation", "wait", patience=60):
            assert done.is_set()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named_and_work_goes_on(code, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("ditask_jax.files.fcntl.lockf", refuse)
    with caplog.at_level("WARNING"), locked(tmp_path / ".lock", "workdir", "training", "wait"):
        assert list(tmp_path.iterdir()) == []
    [message] = caplog.messages
    assert message.startswith(f"lock: no locks in '{tmp_path}' ({os.strerror(code)}): see to it that only one training")


def test_a_lock_file_that_is_deleted_locks_no_more(tmp_path):
    """The way out where a machine has gone with its lock; the one who held it does not delete the new file."""
    path = tmp_path / ".lock"
    with held_elsewhere(path):
        path.unlink()
        assert subprocess.run([sys.executable, "-c", ENTERS, str(path)], check=False).returncode == 0
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_lock_outlives_no_folder_and_no_error(tmp_path):
    """What becomes of the folder meanwhile is no reason for an error at the end of an hour's work."""
    path = tmp_path / "run/.lock"
    with locked(path, "workdir", "training", "wait"):
        shutil.rmtree(path.parent)
    with locked(path, "workdir", "training", "wait"):
        shutil.rmtree(path.parent)
        path.parent.write_text("a file by now")
    path.parent.unlink()
    with pytest.MonkeyPatch.context() as patch, locked(path, "workdir", "training", "wait"):
        patch.setattr(pathlib.Path, "unlink", lambda *_, **__: _refuse(errno.EROFS))
    assert path.exists()
    with locked(path, "workdir", "training", "wait"):
        pass
    assert not path.exists()


def _refuse(code):
    raise OSError(code, os.strerror(code))


def test_a_folder_that_is_removed_by_the_one_before_is_made_again(tmp_path, monkeypatch):
    path, gone, real = tmp_path / "new/run/.lock", [], os.open

    def open_late(name, *arguments, **options):
        if len(gone) < 3 and str(name) == str(path):
            shutil.rmtree(tmp_path / "new")
            gone.append(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_late)
    with locked(path, "workdir", "training", "wait"):
        assert path.is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_or_a_name_that_cannot_be_made_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "new/run/.lock"
    with pytest.raises(OSError, match="too long"), locked(tmp_path / "a" / ("x" * 300) / ".lock", "w", "t", "wait"):
        pass
    monkeypatch.setattr(os, "pwrite", lambda *_: _refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught, locked(path, "workdir", "training", "wait"):
        pass
    assert caught.value.filename == str(path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    with locked(path, "workdir", "training", "wait"):
        assert subprocess.run([sys.executable, "-c", ENTERS, str(path)], check=False, stderr=-3).returncode == 1


FORKED = """
import os, sys
from ditask_jax.errors import ConfigError
from ditask_jax.files import locked
with locked(sys.argv[1], "workdir", "training", "wait"):
    child = os.fork()
    if not child:
        try:
            with locked(sys.argv[1], "workdir", "training", "wait"):
                os._exit(3)
        except ConfigError as error:
            assert f"pid {os.getppid()}" in str(error)
    else:
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.exists(sys.argv[1])
"""


def test_a_process_that_was_forked_off_is_refused_like_others(tmp_path):
    """It leaves both blocks then, and the file to its parent."""
    command = [sys.executable, "-c", FORKED, str(tmp_path / ".lock")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


ENTERS = """
import sys
from ditask_jax.files import locked
with locked(sys.argv[1], "workdir", "training", "wait"):
    pass
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a:/x /data nfs4 rw,vers=4.2,local_lock=none 0 0", None),
        ("a:/x /data nfs rw,vers=3,nolock,local_lock=all 0 0", "nfs, local_lock=all"),
        ("a:/x /data nfs rw,local_lock=flock 0 0", None),
        ("a:/x /data nfs rw,local_lock=posix 0 0", "nfs, local_lock=posix"),
        ("a@tcp:/x /data lustre rw,flock 0 0", None),
        ("a@tcp:/x /data lustre rw,localflock 0 0", "lustre, localflock"),
        ("a:/x /data fuse.sshfs rw 0 0", "fuse.sshfs"),
        ("bucket /data fuse.gcsfuse rw 0 0", "fuse.gcsfuse"),
        ("none /data ext4 rw 0 0", None),
        ("//server/x /data cifs rw,vers=3.1.1,nobrl 0 0", "cifs, nobrl"),
        ("//server/x /data smb3 rw,vers=3.1.1 0 0", None),
        ("/dev/dm-1 /data gfs2 rw,localflocks 0 0", "gfs2, localflocks"),
        ("a:/x /dat nfs rw,nolock 0 0", None),
        ("a:/x /data/runs\\040b nfs rw,nolock 0 0", None),
    ],
)
def test_mounts_whose_locks_end_at_this_machine(line, expected):
    mounts = f"overlay / overlay rw 0 0\n{line}\n"
    assert local_locks(mounts, "/data/runs a") == expected
    assert local_locks(mounts + "none /data tmpfs rw 0 0\n", "/data/runs a") is None
