"""README is true: its tree names every file with the sentence that the file itself begins with."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def sentences() -> dict[str, str]:
    found = {}
    for folder in ("pipeline", "training", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.relative_to(ROOT).as_posix()] = text.splitlines()[0] if text else ""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name: text for name, text in found.items() if name in tracked and not name.endswith("__init__.py")}


def tree() -> str:
    lines, folder = [], ""
    for name, text in sentences().items():
        parent = name.rsplit("/", 1)[0]
        if parent != folder:
            folder = parent
            lines.append(f"{parent}/")
        lines.append(f"    {name.rsplit('/', 1)[-1]:<18} {text}")
    return "\n".join(lines)


def test_the_tree_is_complete_and_says_what_the_files_say():
    assert tree() in (ROOT / "README.md").read_text(encoding="utf-8"), f"put this tree into README.md:\n{tree()}"
