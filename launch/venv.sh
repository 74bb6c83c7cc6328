# Sourced by the other scripts: `make_venv FOLDER LOCK` makes a virtual environment and installs a lock file into it.
# shellcheck shell=bash

# Whether a command starts a Python that this package supports.
python_fits() {
  command -v "$1" >/dev/null 2>&1 &&
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# Prints the first Python 3.11-3.13 that starts; PYTHON, if set, is the only candidate.
choose_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    if python_fits "$PYTHON"; then
      echo "$PYTHON"
      return
    fi
    echo "python: PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13 that starts; set PYTHON to one that is" >&2
    return 2
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if python_fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "python: found no Python 3.11, 3.12 or 3.13 (looked for python3, python3.13, python3.12, python3.11, python);" \
    "install one, or set PYTHON to its path" >&2
  return 2
}

# make_venv FOLDER LOCK: an existing environment that works is kept, and only what the lock changes is installed.
make_venv() {
  local folder="$1" lock="$2" python started=$SECONDS
  if [[ -e "$folder/bin/python" ]] && "$folder/bin/python" -c 'import pip' >/dev/null 2>&1; then
    if ! python_fits "$folder/bin/python"; then
      echo "python: $folder was made with $("$folder/bin/python" --version), this package needs 3.11 to 3.13;" \
        "remove that folder and run the same command again" >&2
      return 2
    fi
  else
    python="$(choose_python)" || return
    if ! "$python" -m venv --clear "$folder"; then
      echo "python: '$python -m venv' failed; on Debian and Ubuntu install the package python3-venv, or set PYTHON to" \
        "another Python 3.11 to 3.13" >&2
      return 2
    fi
  fi
  echo "environment: installing $lock into $folder (a minute and 1.2 GB the first time)"
  # Twice quiet: pip would print some hundred lines; what goes wrong is printed either way.
  if ! "$folder/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r "$lock"; then
    echo "pip: $lock could not be installed into $folder (see above); run the same command again to go on" >&2
    return 2
  fi
  echo "environment: $folder with $("$folder/bin/python" --version) and $lock, $((SECONDS - started)) s"
}
