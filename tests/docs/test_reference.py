"""docs/reference.md says what the source says."""

import inspect

import ditask_jax as dj
from ditask_jax.adapters import method_class, method_names
from ditask_jax.options import options_of
from ditask_jax.tasks import task_registry
from docs import build_options, build_reference


def test_the_committed_page_is_current():
    found = build_reference.PAGE.read_text(encoding="utf-8")
    assert found == build_reference.page(), "run 'python -m docs.build_reference'"


def test_tables_of_options_are_what_the_methods_declare():
    found = build_options.PAGE.read_text(encoding="utf-8")
    assert found == build_options.page(found), "run 'python -m docs.build_options'"
    for name in method_names():
        for option in options_of(method_class(name)).values():
            assert f"| `{option.name}` | `{option.text(option.default)}` | " in build_options.table(name)
        assert build_options.table(name) in found or not options_of(method_class(name))


def test_every_public_name_has_an_entry_with_its_docstring():
    page = build_reference.page()
    for name in dj.__all__:
        if not name.startswith("__"):
            (_, entry) = page.split(f"### `{name}`\n", 1)
            # `tasks` is a package that can be called; described is the function.
            value = task_registry.tasks if name == "tasks" else getattr(dj, name)
            summary = inspect.getdoc(value).splitlines()[0]
            assert summary in entry.split("\n## ")[0].split("\n### ")[0], name


def test_signatures_are_those_of_python():
    for name in ("wrap", "create_model", "load_config", "register_task", "export_weights"):
        function = getattr(dj, name)
        text = build_reference.signature(function.__module__, name, build_reference.find(function.__module__, name)[1])
        assert text.startswith(f"{name}(")
        assert [parameter for parameter in inspect.signature(function).parameters if f"{parameter}:" not in text] == []
