"""What the launch scripts call, in which order, and what they make of exit codes."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from ditask_jax.training.cluster import find_cluster
from tests.launch.stand_ins import noted, stand_ins

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch"]
ARGUMENTS = ["--config=configs/smoke.py", "--workdir=some where"]


def launch(script, folder, *arguments, wrapper=(), **variables):
    environment = stand_ins(folder) | variables
    command = [*wrapper, "bash", str(ROOT / "launch" / script), *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr, noted(folder)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_and_say_what_they_are(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, *_ = path.read_text().splitlines()
    assert (second if first.startswith("#!") else first).startswith("# ")


def test_local_runs_the_preflight_and_then_the_training(tmp_path):
    code, _, calls = launch("local.sh", tmp_path, *ARGUMENTS)
    given = "--config=configs/smoke.py --workdir=some where cluster="
    assert (code, calls) == (0, [f"preflight {given}", f"train {given}"])


def test_local_is_one_process_whatever_the_shell_had(tmp_path):
    left_over = {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "1", "SLURM_STEP_NUM_TASKS": "8"}
    _, _, calls = launch("local.sh", tmp_path, *ARGUMENTS, **left_over)
    assert [call.endswith("cluster=") for call in calls] == [True, True]


@pytest.mark.parametrize(("preflight", "train", "expected", "steps"), [(2, 0, 2, 1), (0, 75, 75, 2), (0, 2, 2, 2)])
def test_local_hands_exit_codes_on(tmp_path, preflight, train, expected, steps):
    codes = {"FAKE_PREFLIGHT_CODE": str(preflight), "FAKE_TRAIN_CODE": str(train)}
    code, _, calls = launch("local.sh", tmp_path, *ARGUMENTS, **codes)
    assert (code, len(calls)) == (expected, steps)


@pytest.mark.parametrize("script", ["local.sh", "slurm.sbatch"])
def test_a_missing_environment_is_one_line(tmp_path, script):
    code, output, calls = launch(script, tmp_path, *ARGUMENTS, PYTHON="/nowhere/python", SLURM_SUBMIT_DIR=str(ROOT))
    assert (code, calls) == (2, [])
    assert re.fullmatch(r"(local|slurm): .*/nowhere/python.*\n", output)


JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "FAKE_TASKS": "2", "SLURM_CPUS_PER_TASK": "4"}


def test_a_job_runs_both_on_every_node(tmp_path):
    code, output, calls = launch("slurm.sbatch", tmp_path, *ARGUMENTS, **JOB)
    given = "--config=configs/smoke.py --workdir=some where cluster=2"
    assert code == 0, output
    assert [call for call in calls if call.startswith("srun")] == [calls[0], calls[3]]
    assert calls[1:3] == [f"preflight {given}"] * 2
    assert calls[4:] == [f"train {given}"] * 2


def test_a_job_whose_preflight_fails_trains_nothing(tmp_path):
    code, _, calls = launch("slurm.sbatch", tmp_path, *ARGUMENTS, **JOB, FAKE_PREFLIGHT_CODE="2")
    assert code == 2
    assert not [call for call in calls if call.startswith(("train", "scontrol"))]


def test_a_job_whose_time_is_up_goes_back_into_the_queue(tmp_path):
    code, output, calls = launch("slurm.sbatch", tmp_path, *ARGUMENTS, **JOB, FAKE_TRAIN_CODE="75")
    assert code == 0
    assert calls[-1] == "scontrol requeue 7"
    assert "job 7 goes back into the queue" in output


def test_a_job_that_cannot_be_requeued_says_so(tmp_path):
    codes = {"FAKE_TRAIN_CODE": "75", "FAKE_SCONTROL_CODE": "1"}
    code, output, _ = launch("slurm.sbatch", tmp_path, *ARGUMENTS, **JOB, **codes)
    assert code == 75
    assert "submit the same command again" in output


@pytest.mark.parametrize("train", [0, 2, 137])
def test_other_ends_are_not_requeued(tmp_path, train):
    code, _, calls = launch("slurm.sbatch", tmp_path, *ARGUMENTS, **JOB, FAKE_TRAIN_CODE=str(train))
    assert code == train
    assert not [call for call in calls if call.startswith("scontrol")]


def test_a_cancelled_job_stays_cancelled(tmp_path):
    """`scancel` tells the script as well as the tasks, which save and leave with 75."""
    wrapper = ("bash", "-c", 'echo $$ > "$FAKE_LOG.script"; exec "$@"', "x")
    (tmp_path / "log").write_text("")
    ends = {"FAKE_TRAIN_CODE": "75", "FAKE_CANCEL": "train"}
    code, _, calls = launch("slurm.sbatch", tmp_path, *ARGUMENTS, wrapper=wrapper, **JOB, **ends)
    assert code == 75
    assert not [call for call in calls if call.startswith("scontrol")]


def test_the_job_asks_for_what_the_promises_need():
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, flags=re.MULTILINE)
    assert {"--ntasks-per-node=1", "--gpus-per-node=8", "--requeue", "--open-mode=append"} <= set(options)
    (signal,) = [option for option in options if option.startswith("--signal=")]
    assert re.fullmatch(r"--signal=TERM@\d+", signal)  # no "B:": the tasks are told, not the script
    assert "kill-on-bad-exit" not in text  # the first to leave with 75 would end the one that saves


@pytest.fixture(scope="module")
def job_set():
    return yaml.safe_load((ROOT / "launch" / "gke.yaml").read_text())


def test_the_job_set_describes_one_cluster(job_set):
    """The variables of pod 1, as Kubernetes would set them, make it process 1 of as many as there are pods."""
    assert job_set["apiVersion"].startswith("jobset.x-k8s.io/")
    (workers,) = job_set["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(isinstance(value, str) for value in variables.values())
    cluster = find_cluster(variables | {"JOB_COMPLETION_INDEX": "1"})
    assert cluster.count == job["completions"] == job["parallelism"] == 2
    assert cluster.index == 1
    name, port = job_set["metadata"]["name"], container["ports"][0]["containerPort"]
    assert cluster.address == f"{name}-{workers['name']}-0-0.{name}:{port}"
    assert job["completionMode"] == "Indexed"
    assert container["resources"]["limits"]["nvidia.com/gpu"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_pods_start_again_unless_it_was_a_mistake(job_set):
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    (reaction,) = job_set["spec"]["failurePolicy"]["rules"]
    assert (reaction["action"], reaction["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_the_pod_runs_the_preflight_and_becomes_the_training(job_set, tmp_path):
    container = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    environment = stand_ins(tmp_path) | {entry["name"]: entry["value"] for entry in container["env"]}
    os.symlink(tmp_path / "python-stand-in", tmp_path / "python")
    command = [*container["command"], *container["args"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in noted(tmp_path)] == ["preflight", "train"]
    assert all("--config=configs/pascal_swin_tiny.py --workdir=/shared/runs" in call for call in noted(tmp_path))
    assert "exec python -m ditask_jax.train" in container["args"][0]


FAKE_PYTEST = """#!/usr/bin/env bash
if [[ "$1" == -c ]]; then echo 3.11; exit; fi
echo "$* flags=${XLA_FLAGS-unset}" >> .log
[[ "$*" == *pytest* ]] && echo "== 3 passed, 1 skipped in 0.10s =="
[[ -e .broken && "$*" == *"$(cat .broken)"* ]] && exit 1
exit 0
"""


@pytest.fixture
def full_tests(tmp_path):
    """A folder with `launch/test_full.sh` and stand-ins for all that it starts; runs it."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "test_full.sh", tmp_path / "launch")
    (tmp_path / "launch" / "venv.sh").write_text("make_venv() { :; }\n")
    (tmp_path / "launch" / "test_interop.sh").write_text("echo interop >> .log\n")
    (tmp_path / ".gitignore").write_text("/.*\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(FAKE_PYTEST)
    python.chmod(0o755)
    plain = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    environment = plain | {"PYENV_ROOT": str(tmp_path / "none"), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}

    def run(*arguments, **variables):
        (tmp_path / ".log").write_text("")
        command = ["bash", "launch/test_full.sh", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr, (tmp_path / ".log").read_text().splitlines()

    return run


def test_the_full_tests_go_on_where_they_were(full_tests, tmp_path):
    (tmp_path / ".broken").write_text("tests/training")
    code, output, calls = full_tests("laws", "training", "interop")
    assert code == 1
    assert len(calls) == 3
    assert all("flags=" in call and "unset" not in call for call in calls if "pytest" in call)
    assert re.search(r"^test_full: laws: passed, \d+ s, 3 passed, 1 skipped in 0.10s$", output, re.MULTILINE)
    assert re.search(r"^test_full: training: failed, code 1, ", output, re.MULTILINE)
    (summary,) = tmp_path.glob(".cache/full/*/summary.txt")
    assert "training: failed" in summary.read_text()
    assert "pages: not run yet" in summary.read_text()

    (tmp_path / ".broken").unlink()
    code, output, calls = full_tests("laws", "training", "interop")
    assert (code, len(calls)) == (0, 1), "only what failed runs again"
    assert "tests/training" in calls[0]
    assert "laws: passed" in summary.read_text()

    assert len(full_tests("laws", FRESH="1")[2]) == 1
    (tmp_path / "new.py").write_text("another state of the files")
    assert len(full_tests("laws")[2]) == 1
    assert full_tests("laws", "--list")[2] == []
    code, output, _ = full_tests("lows")
    assert code == 2
    assert "'lows': unknown part; known:" in output


def test_the_full_tests_run_every_slow_test_once(full_tests):
    """By folder, or with what no other part names."""
    _, _, calls = full_tests()
    slow = [call for call in calls if "-m slow" in call]
    (others,) = [call for call in slow if "--ignore" in call]
    named = [word for call in slow if call != others for word in call.split() if word.startswith("tests/")]
    ignored = [word.partition("=")[2] for word in others.split() if word.startswith("--ignore")]
    assert len(named) == len(set(named))
    assert sorted(named) == sorted(ignored)
    assert all((ROOT / name).is_dir() for name in named)
