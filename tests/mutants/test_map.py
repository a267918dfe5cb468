"""Which tests execute which lines, and for how long: a clean run under coverage.py, remembered until a file changes."""

import hashlib
import importlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest


class TestMap:
    __test__ = False

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # of each test
        self.failed: set[str] = set()
        self.lines: dict[str, dict[str, list[int]]] = {}  # of each test, in each source file
        self.imported: dict[str, list[int]] = {}  # lines that run while the package is imported
        self.package = ""  # digest of what every test depends on
        self.files: dict[str, str] = {}  # digests of the test files

    @staticmethod
    def load(file: Path) -> "TestMap":
        found = TestMap()
        if file.exists():
            found.__dict__.update(json.loads(file.read_text()))
            found.failed = set(found.failed)
        return found

    def save(self, file: Path) -> None:
        file.write_text(json.dumps({**self.__dict__, "failed": sorted(self.failed)}))

    def forget(self, test_files: Sequence[str]) -> None:
        for test in [t for t in self.seconds if file_of(t) in test_files]:
            del self.seconds[test]
            self.lines.pop(test, None)
            self.failed.discard(test)

    def add(self, other: "TestMap") -> None:
        self.seconds |= other.seconds
        self.failed |= other.failed
        self.lines |= other.lines
        self.imported |= other.imported

    def index(self) -> None:
        """Prepares for `of`."""
        self.by_line: dict[tuple[str, int], list[str]] = defaultdict(list)
        for test, files in self.lines.items():
            if test not in self.failed:
                for path, lines in files.items():
                    for line in lines:
                        self.by_line[path, line].append(test)

    def of(self, path: str, lines: Sequence[int]) -> list[str]:
        """The tests that execute one of these lines."""
        return sorted({test for line in lines for test in self.by_line.get((path, line), [])})

    def ordered(self, path: str, tests: Sequence[str], budget: float) -> list[str]:
        """Quick tests first, other functions before more cases of one, the file's own tests before others; for up to `budget` s."""
        stem = Path(path).stem.removeprefix("_")
        turns: dict[str, int] = defaultdict(int)  # cases of a function so far
        weighed = []
        for test in sorted(tests, key=lambda t: (self.seconds[t], t)):
            name = test.partition("[")[0]
            turns[name] += 1
            weighed.append(((0.001 + self.seconds[test]) * turns[name] * (1 if stem in name else 3), test))
        chosen, total = [], 0.0
        for _, test in sorted(weighed):
            total += self.seconds[test]
            if total > budget and chosen:
                break
            chosen.append(test)
        return chosen


class Recorder:
    """A pytest plugin that switches coverage.py's context from test to test."""

    def __init__(self, coverage: Any, found: TestMap) -> None:
        self.coverage, self.found = coverage, found

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        start = time.process_time()
        result = yield
        self.found.seconds[item.nodeid] = round(time.process_time() - start, 4)
        self.coverage.switch_context("between")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.found.failed.add(report.nodeid)


def record(found: TestMap, root: Path, sources: Sequence[str], arguments: Sequence[str]) -> None:
    """The clean run. To be called in a process of its own, before the package is imported."""
    import coverage

    cov = coverage.Coverage(data_file=None, include=[str(root / s) for s in sources], config_file=False)
    cov.start()
    cov.switch_context("import")
    for file in sorted(file for pattern in sources for file in root.glob(pattern)):
        name = file.relative_to(root).with_suffix("")
        importlib.import_module(".".join(name.parent.parts if name.name == "__init__" else name.parts))
    cov.switch_context("between")
    pytest.main(list(arguments), plugins=[Recorder(cov, found)])
    cov.stop()
    data = cov.get_data()
    for file in data.measured_files():
        path = str(Path(file).relative_to(root))
        at_import = []
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in contexts:
                if context == "import":
                    at_import.append(line)
                elif context in found.seconds:
                    found.lines.setdefault(context, {}).setdefault(path, []).append(line)
        found.imported[path] = at_import


def file_of(test: str) -> str:
    return test.partition("::")[0]


def digest(root: Path, files: Iterable[Path]) -> str:
    found = hashlib.sha1()
    for file in sorted(files):
        found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()
