"""The house: documents that agree with the code, complete pins, rooms that keep their order."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

import tastemaker
import tastemaker.cli
from tastemaker.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md"))
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]
GENERATED = [
    "README.md",
    "docs/adding-a-method.md",
    "docs/cli.md",
    "docs/extending.md",
    "docs/methods.md",
    "docs/performance.md",
    "docs/reproduction.md",
]


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: str, language: str) -> list[str]:
    """The fenced code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL)


def commands(path: str) -> list[list[str]]:
    """The shell commands of a document, continued lines joined, comments dropped."""
    lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a `tastemaker` command in this process; it must succeed."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        tastemaker.cli.main()
    assert left.value.code == 0, f"{shlex.join(words)} left with exit code {left.value.code}"


@pytest.fixture
def own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with the files that the documents speak of."""
    lines = [
        f"{user},{(user * 3 + step) % 30},{1_700_000_000 + user * 60 + step * 86_400}"
        for user in range(1, 61)
        for step in range(6 + user % 5)
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,time", *lines, ""]))
    films = [f"{item},Film {item}" for item in range(30)]
    (tmp_path / "films.csv").write_text("\n".join(["item,title", *films, ""]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_is_in_order() -> None:
    headings = re.findall(r"^## (.*)$", text_of("README.md"), re.MULTILINE)
    expected = [
        "Two commands",
        "Five lines of Python",
        "Your own CSV",
        "A service and a page",
        "Items that say something",
        "Methods",
        "Adding a method",
    ]
    assert headings == expected
    (python,) = blocks("README.md", "python")
    assert len(python.split("\n\n", 1)[1].splitlines()) == 4  # five with the import


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(path)):
        if "://" not in target:
            assert ((ROOT / path).parent / target).exists(), f"{path}: no {target}"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_commands_are_spelt_as_the_command_line_takes_them(path: str) -> None:
    root = get_command(tastemaker.cli.app)
    for words in commands(path):
        match words:
            case ["tastemaker", *rest] if "--help" not in rest:
                found = root
                while hasattr(found, "commands"):
                    assert rest[0] in found.commands, f"{path}: {shlex.join(words)}"
                    found, rest = found.commands[rest[0]], rest[1:]
                found.make_context(words[0], list(rest))
            case ["make", target, *_]:
                assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE), target


@pytest.mark.parametrize("path", ["README.md", "docs/data.md"])
def test_commands_run_as_printed(path: str, own_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(path):
        if words[:2] == ["tastemaker", "serve"]:
            continue  # does not end; tests/serving/test_deploy_page.py runs it
        if words[0] == "tastemaker" and "ml-100k" not in words:
            run(words, monkeypatch)
    assert (own_log / "data").is_dir()


def test_python_of_the_data_page_runs(own_log: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("docs/data.md", "python"):
        exec(compile(block, "docs/data.md", "exec"), names)
    assert len(names["split"].train) > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["README.md", "docs/index.md"])
def test_python_of_the_readme_runs(
    path: str, own_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        tastemaker.load("ml-100k")
    except DataError as error:
        pytest.skip(f"ml-100k cannot be had here: {error}")
    (python,) = blocks(path, "python")
    exec(compile(python, path, "exec"), {})
    assert "ndcg@10" in capsys.readouterr().out
    assert (own_log / "runs" / "ease" / "run.json").is_file()


@pytest.mark.parametrize("path", GENERATED)
def test_generated_parts_are_up_to_date(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tables = importlib.import_module("tables")
    assert set(tables.PARTS) == set(GENERATED)
    assert tables.rendered(path) == text_of(path), f"{path} is out of date; run: make tables"


def test_rooms_import_only_rooms_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    found = lint_imports(config_filename="pyproject.toml", cache_dir=str(tmp_path))
    assert found == 0, "a room imports what it may not; see: make layers"


def test_everything_installed_is_pinned() -> None:
    lines = [line for line in text_of("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines}
    wanted = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    assert wanted - pinned == {"tastemaker"}


def test_requirements_have_no_upper_bounds() -> None:
    for requirement in REQUIREMENTS:
        assert all(part.operator == ">=" for part in requirement.specifier), str(requirement)


def test_missing_extras_are_named_rightly() -> None:
    called = {"PIL": "pillow"}  # modules of packages of another name
    asked = [
        (match["module"].split(".")[0], match["extra"])
        for path in (ROOT / "src").rglob("*.py")
        for match in re.finditer(
            r"require\(\s*\"(?P<module>[\w.]+)\",\s*extra=\"(?P<extra>\w+)\"", path.read_text()
        )
    ]
    assert asked
    for module, extra in asked:
        assert extra in EXTRAS, f"there is no extra {extra!r}"
        packages = [canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]]
        package = called.get(module, module).replace("_", "-")
        assert any(name.startswith(package) for name in packages), f"{extra} lacks {module}"


def test_licence_and_changelog() -> None:
    assert "Apache License" in text_of("LICENSE")
    assert PROJECT["license"] == "Apache-2.0"
    headings = re.findall(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] in ("Unreleased", tastemaker.__version__)
