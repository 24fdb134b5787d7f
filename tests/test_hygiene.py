"""What every notebook must be before it is committed; the rules are in CONTRIBUTING.md."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
KNOWN_TAGS = {"exercise", "keep_output", "nbval-check-output"}
SECTIONS_OF_A_LESSON = ["Claim check", "Quiz", "What you saw", "Further reading"]
HAS_CLAIMS = [path for path in LESSONS if not path.name.startswith("00")]


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def headings(path: Path) -> list[tuple[int, str]]:
    found = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            found += re.findall(r"^(#+) (.+)$", cell.source, flags=re.M)
    return [(len(signs), text) for signs, text in found]


def test_there_are_lessons():
    assert [path.name[:2] for path in LESSONS][:2] == ["00", "01"]


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_it_is_a_valid_notebook_with_unique_cell_ids(lesson: Path):
    notebook = read(lesson)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_its_outputs_are_those_of_one_clean_run(lesson: Path):
    counts = [cell.execution_count for cell in code_cells(lesson)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_output_is_an_error_or_a_warning(lesson: Path):
    for cell in code_cells(lesson):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source


def test_no_state_of_widgets_or_editors_is_kept(lesson: Path):
    notebook = read(lesson)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        is_quiz = "lab.Quiz(" in cell.source  # whose code holds the answers
        assert cell.metadata.get("jupyter") == ({"source_hidden": True} if is_quiz else None)
        assert set(cell.metadata) <= {"tags", "jupyter"}
        for output in cell.get("outputs", []):
            assert not any("widget" in mime for mime in output.get("data", {}))


def test_its_tags_are_known_and_mean_something(lesson: Path):
    for cell in read(lesson).cells:
        assert tags(cell) <= KNOWN_TAGS
        if tags(cell) & {"keep_output", "nbval-check-output"}:
            assert cell.outputs, f"tagged, but without output: {cell.source}"
        elif cell.cell_type == "code":
            assert not cell.outputs, f"an output that nobody asked to keep: {cell.source}"


def test_enough_cells_are_compared_and_none_of_them_with_a_time(lesson: Path):
    cells = code_cells(lesson)
    compared = [cell for cell in cells if "nbval-check-output" in tags(cell)]
    assert 0.1 <= len(compared) / len(cells) <= 0.4
    for cell in compared:
        for output in cell.outputs:
            assert output.output_type == "stream", "only printed text is compared"
            assert not re.search(r"\d ms\b|\d s\b|seconds", output.text), output.text


def test_headings_are_in_order_under_one_title(lesson: Path):
    levels = [level for level, _ in headings(lesson)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("path", HAS_CLAIMS, ids=lambda path: path.stem)
def test_a_lesson_has_the_sections_that_readers_expect(path: Path):
    texts = [text for _, text in headings(path)]
    places = [texts.index(section) for section in SECTIONS_OF_A_LESSON]
    assert places == sorted(places)
    assert any(text.startswith("What really ran") for text in texts)
    assert any(text.startswith("Exercise") for text in texts)


def test_it_says_what_is_needed_and_how_long_it_takes(lesson: Path):
    start = "".join(cell.source for cell in read(lesson).cells[:3])
    for word in ("You will", "You need", "Time"):
        assert f"**{word}**" in start


def test_prose_and_cells_are_short(lesson: Path):
    for cell in read(lesson).cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if cell.cell_type == "markdown":
            paragraphs = [line for line in lines if not line.startswith(("#", "-", "|"))]
            assert sum(len(line) for line in paragraphs) <= 1000, cell.source
        elif not re.search(r"lab\.Quiz\(|claims\.\w+Table\(|^import ", cell.source, flags=re.M):
            assert len(lines) <= 20, cell.source


def test_imports_stand_in_one_cell_and_nothing_ends_in_a_semicolon(lesson: Path):
    importing = []
    for number, cell in enumerate(code_cells(lesson)):
        tree = ast.parse(cell.source)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)):
            importing.append(number)
        assert not cell.source.rstrip().endswith(";")
    assert importing == [0]


def test_no_address_of_this_machine_and_no_session_word_is_in_it(lesson: Path):
    text = lesson.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)
    assert str(ROOT) not in text


def test_it_is_small(lesson: Path):
    assert lesson.stat().st_size < 1_500_000


def test_no_later_cell_uses_a_learners_function(lesson: Path):
    cells = code_cells(lesson)
    for number, cell in enumerate(cells):
        if "exercise" not in tags(cell):
            continue
        assert "raise NotImplementedError" in cell.source
        (name,) = re.findall(r"^def (\w+)\(", cell.source, flags=re.M)
        users = [
            c.source
            for c in cells[number + 1 :]
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(ast.parse(c.source)))
        ]
        assert len(users) == 1
        assert users[0].startswith("checks.")


def test_each_exercise_has_a_solution_of_the_same_name():
    for path in LESSONS:
        stubs = {
            re.findall(r"^def (\w+)\(", cell.source, flags=re.M)[0]
            for cell in code_cells(path)
            if "exercise" in tags(cell)
        }
        if not stubs:
            continue
        solution = path.parent / "solutions" / f"{path.stem}.py"
        names = {
            node.name
            for node in ast.parse(solution.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        assert stubs <= names


def test_links_between_files_lead_somewhere():
    for path in [*LESSONS, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md"]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_table_of_lessons_in_the_readme_is_complete():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in LESSONS:
        assert f"notebooks/{path.name}" in readme


def test_no_module_of_the_package_is_long():
    for path in (ROOT / "course_utils").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path.name
