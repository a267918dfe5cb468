"""Mutation testing: puts small faults into the package, one at a time, and reports those that no test notices.

    python tests/mutants/run_mutants.py [FILE ...] [--sample N --seed S] [--jobs 2]

Each mutant runs in a fork of a process that has imported torch and pytest and collected the tests, on the tests that execute its line,
until the first one fails. Results are written to build/mutants; a second run takes what was killed from there, and tries the survivors
again. mutmut and cosmic-ray do not fit: the first wraps functions, whose signatures `ops/_register.py` reads and Dynamo traces, the
second starts an interpreter, and imports torch, for each mutant.
"""

import argparse
import fnmatch
import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from mutations import Mutant, compiled, mutants_of
from patching import Functions, MutatedImport, other_closures
from test_map import TestMap, digest, record

KILLED, TIMEOUT, SURVIVED, UNTESTED = "killed", "timeout", "survived", "untested"
PASSED = "-"
MEMORY = 8 << 30  # what a mutant may take beyond its parent
KEPT_RESULTS = "results.json"


@dataclass
class Project:
    """What is mutated and what tests it. `pyproject.toml`: [tool.mutants]."""

    root: Path
    sources: list[str]  # patterns of files
    tests: list[str]
    preload: list[str]  # imported once, before the forks
    equivalent: str  # file that names the equivalent mutants
    out: Path
    budget: float = 30.0  # seconds of tests for a mutant
    grace: float = 30.0  # seconds beyond ten times what its tests take, after which it counts as endless

    @staticmethod
    def load(root: Path, out: Path) -> "Project":
        table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mutants"]
        return Project(root, out=out, **table)

    def files(self, patterns: Sequence[str]) -> list[str]:
        """The files to mutate: all, or those of the patterns (of paths, or of names)."""
        paths = sorted({str(p.relative_to(self.root)) for s in self.sources for p in self.root.glob(s)})
        if not patterns:
            return paths
        return [p for p in paths if any(fnmatch.fnmatch(p, pattern) or Path(p).stem == pattern for pattern in patterns)]

    def options(self) -> list[str]:
        given = [a for a in self.tests if a.startswith("-")]
        # Plain assertions: the hook that rewrites them would import the files of doctests, past the mutated ones.
        return ["-q", "--no-header", "--assert=plain", "-p", "no:cacheprovider", "--rootdir", str(self.root), *given]

    def paths(self) -> list[str]:
        return [a for a in self.tests if not a.startswith("-")]

    def test_map(self, jobs: int) -> TestMap:
        """From the clean run. It is repeated after any change of the package, else for test files that changed."""
        file = self.out / "tests.json"
        found = TestMap.load(file)
        package = {Path(s).parts[0] for s in self.sources}
        python = {f for p in (*package, *self.paths()) for f in ([self.root / p] if p.endswith(".py") else (self.root / p).rglob("*.py"))}
        names = {f: str(f.relative_to(self.root)) for f in python}
        tests = {f for f in python if f.name.startswith("test_") and Path(names[f]).parts[0] not in package}
        common = digest(self.root, python - tests)
        digests = {names[f]: digest(self.root, [f]) for f in tests}
        if found.package != common:
            found = TestMap()
        stale = sorted(name for name in digests if found.files.get(name) != digests[name])
        found.forget([*stale, *(set(found.files) - set(digests))])
        if found.package != common:
            stale += [p for p in self.paths() if Path(p).parts[0] in package]  # doctests
        found.package, found.files = common, digests
        if stale:
            print(f"clean run of {len(stale)} files and folders of tests", flush=True)
        parts = [(stale[i::jobs], self.out / f"part{i}.json") for i in range(min(jobs, len(stale)))]
        for pid in [fork(partial(self._record, *part), quiet=True) for part in parts]:
            if code := wait_for(pid):
                raise SystemExit(f"the clean run ended with {code}")
        for _, part in parts:
            found.add(TestMap.load(part))
            part.unlink()
        found.save(file)
        found.index()
        return found

    def _record(self, tests: Sequence[str], file: Path) -> None:
        found = TestMap()
        record(found, self.root, self.sources, [*self.options(), *tests])
        found.save(file)


class Selection:
    """A pytest plugin that runs the named tests in their order, until one fails."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Session:
    """A pytest plugin that calls a function with the collected tests in place of running them."""

    def __init__(self, run: Callable[[pytest.Session], None]) -> None:
        self.run = run

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.run(session)
        return True


class Runner:
    def __init__(self, project: Project, jobs: int) -> None:
        self.project, self.jobs, self.map = project, jobs, project.test_map(jobs)
        self.equivalent = equivalents(project.root, project.equivalent)
        self.file = project.out / KEPT_RESULTS
        self.results: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.running: dict[int, tuple[Mutant, int, list[str]]] = {}  # pid: mutant, pipe, tests

    def run(self, mutants: Sequence[Mutant]) -> None:
        if self.map.failed:
            print(f"left out, they fail without a mutant: {' '.join(sorted(self.map.failed))}")
        todo = [m for m in mutants if not self._is_known(m)]
        print(f"{len(mutants)} mutants, {len(mutants) - len(todo)} known", flush=True)
        for m in todo:
            if not self.map.of(m.path, m.lines) and not self._runs_at_import(m):
                self._note(m, UNTESTED, [], "")
        todo = [m for m in todo if self.results.get(m.key, {}).get("status") != UNTESTED]
        early = {m for m in todo if self._runs_at_import(m) or other_closures(*self._codes(m))}
        for m in (m for m in todo if m in early):
            self._start(m, self._import_and_test)
        self._drain(0)
        rest = [m for m in todo if m not in early]
        if rest:
            pytest.main(
                [*self.project.options(), "-qq", *self.project.paths()], plugins=[Session(lambda session: self._patch_all(session, rest))]
            )
        self._save()

    def _is_known(self, m: Mutant) -> bool:
        return self.results.get(m.key, {}).get("status") in (KILLED, TIMEOUT) or reason_of(m, self.equivalent) is not None

    def _runs_at_import(self, m: Mutant) -> bool:
        return not set(self.map.imported.get(m.path, [])).isdisjoint(m.lines)

    def _codes(self, m: Mutant) -> tuple[CodeType, CodeType]:
        return compiled(self.project.root, m.path, None), compiled(self.project.root, m.path, m.index)

    def _patch_all(self, session: pytest.Session, mutants: Sequence[Mutant]) -> None:
        items = {item.nodeid: item for item in session.items}
        self._check_without_mutant(partial(run_items, session, items))
        functions = Functions([self.project.root / path for path in {m.path for m in mutants}])
        gc.collect()
        gc.freeze()  # else every fork would walk, and so copy, what all of them share
        for m in mutants:
            self._start(m, partial(self._patch_and_test, partial(run_items, session, items), functions.changed(*self._codes(m))))
        self._drain(0)

    def _check_without_mutant(self, run: Callable[[Sequence[str]], str]) -> None:
        """What a fork does to a test is no mutant's doing."""
        tests = self.map.ordered("", list(self.map.seconds), self.project.budget / 2)
        pid, read = answer(lambda: run(tests))
        wait_for(pid)
        with os.fdopen(read) as pipe:
            if (failed := pipe.read()) != PASSED:
                raise SystemExit(f"fails in a fork, without a mutant: {failed}")

    def _patch_and_test(self, run: Callable[[Sequence[str]], str], changes: Any, tests: Sequence[str], m: Mutant) -> str:
        if not changes:  # of a module that is not imported before the tests run
            MutatedImport(self.project.root / m.path, self._codes(m)[1]).install()
        for function, code in changes:
            function.__code__ = code
        return run(tests)

    def _import_and_test(self, tests: Sequence[str], m: Mutant) -> str:
        MutatedImport(self.project.root / m.path, self._codes(m)[1]).install()
        selection = Selection(tests)
        files = sorted({t.partition("::")[0] for t in tests})
        code = pytest.main([*self.project.options(), "-x", *files], plugins=[selection])
        return selection.failed or ("" if code in (0, 5) else f"pytest ended with {code}")

    def _start(self, m: Mutant, test: Callable[..., str]) -> None:
        """In a fork: the name of the test that fails, or nothing, comes back through a pipe."""
        found = self.map.of(m.path, range(10**5) if self._runs_at_import(m) else m.lines) or list(self.map.seconds)
        tests = self.map.ordered(m.path, found, self.project.budget)
        seconds = sum(self.map.seconds[t] for t in tests)
        self._drain(self.jobs - 1)

        def child() -> str:
            signal.setitimer(signal.ITIMER_REAL, 10 * seconds + self.project.grace)
            limit_memory(MEMORY)
            return test(tests, m)

        pid, read = answer(child)
        self.running[pid] = m, read, tests

    def _drain(self, most: int) -> None:
        while len(self.running) > most:
            pid, status = os.wait()
            m, read, tests = self.running.pop(pid)
            with os.fdopen(read) as pipe:
                failed = pipe.read()
            if os.WIFSIGNALED(status):
                timeout = os.WTERMSIG(status) == signal.SIGALRM
                self._note(m, TIMEOUT if timeout else KILLED, tests, f"signal {os.WTERMSIG(status)}")
            elif failed == PASSED:
                self._note(m, SURVIVED, tests, "")
            else:
                self._note(m, KILLED, tests, failed or f"process ended with {os.waitstatus_to_exitcode(status)}")

    def _note(self, m: Mutant, status: str, tests: Sequence[str], by: str) -> None:
        self.results[m.key] = {**asdict(m), "status": status, "tests": len(tests), "by": by}
        if status != KILLED:
            print(f"{status:9}{m.path}:{m.line}  {m.change}  ({len(tests)} tests)", flush=True)
        if len(self.results) % 20 == 0:
            self._save()

    def _save(self) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.results, indent=1))
        draft.replace(self.file)


def run_items(session: pytest.Session, items: dict[str, pytest.Item], tests: Sequence[str]) -> str:
    """The first test that fails, of those already collected; in a fork."""
    selection = Selection(tests)
    session.config.pluginmanager.unregister(name="terminalreporter")
    session.config.pluginmanager.register(selection)
    chosen = [items[t] for t in tests if t in items]
    for item, following in zip(chosen, [*chosen[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if selection.failed:
            break
    return selection.failed


def answer(call: Callable[[], str]) -> tuple[int, int]:
    """Of a call in a fork: its process, and the pipe that it writes to: PASSED where it returned nothing."""
    read, write = os.pipe()
    pid = fork(lambda: os.write(write, (call() or PASSED).encode()[:4000]), quiet=True)
    os.close(write)
    return pid, read


def fork(call: Callable[[], object], *, quiet: bool) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        call()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait_for(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def steady_hypothesis() -> None:
    """The same examples for every mutant, however busy the machine is."""
    if "hypothesis" in sys.modules:
        from hypothesis import settings

        settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
        settings.load_profile("mutants")


def limit_memory(extra: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def sampled(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """The same ones whatever else there is in the files: those of the smallest hashes."""
    if not count:
        return list(mutants)
    return sorted(mutants, key=lambda m: hashlib.sha1(f"{seed}|{m.key}".encode()).digest())[:count]


Known = dict[tuple[str, str, str, int | None], str]


def equivalents(root: Path, file: str) -> Known:
    """(file, line, change, occurrence; None: every one): why no test can tell this mutant from the code."""
    entries = tomllib.loads((root / file).read_text()).get("mutant", []) if (root / file).exists() else []
    return {(e["file"], e["line"], change, e.get("occurrence")): e["reason"] for e in entries for change in e["changes"]}


def reason_of(m: Mutant, known: Known) -> str | None:
    return known.get((m.path, m.text, m.change, m.occurrence)) or known.get((m.path, m.text, m.change, None))


def table(mutants: Iterable[Mutant], results: dict[str, dict[str, Any]], known: Known) -> str:
    """Markdown: a row for each file, then the sum."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for m in mutants:
        status = results.get(m.key, {}).get("status", "")
        if reason_of(m, known):
            status = "equivalent"
        for row in (m.path, "all"):
            counts[row]["mutants"] += 1
            counts[row][status] += 1
    columns = [KILLED, TIMEOUT, SURVIVED, UNTESTED, "equivalent"]
    lines = [f"| file | mutants | {' | '.join(columns)} | kill rate |", "|---" * (len(columns) + 3) + "|"]
    for row in sorted(counts, key=lambda r: (r == "all", r)):
        c = counts[row]
        real = c["mutants"] - c["equivalent"]
        rate = f"{100 * (c[KILLED] + c[TIMEOUT]) / real:.1f} %" if real else "-"
        lines.append(f"| {row} | {c['mutants']} | {' | '.join(str(c[k]) for k in columns)} | {rate} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files to mutate: patterns of their paths, or names; default: all")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--out", type=Path, help="folder of the results; default: build/mutants")
    parser.add_argument("--sample", type=int, default=0, help="take so many, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only show the results so far")
    options = parser.parse_args()
    root = options.root.resolve()
    out = (options.out or root / "build" / "mutants").resolve()
    out.mkdir(parents=True, exist_ok=True)
    project = Project.load(root, out)
    os.chdir(root)
    sys.path.insert(0, str(root))
    mutants = sampled([m for path in project.files(options.files) for m in mutants_of(root, path)], options.sample, options.seed)
    start = time.monotonic()
    if options.report:
        results = json.loads((out / KEPT_RESULTS).read_text())
    else:
        for module in project.preload:
            importlib.import_module(module)
        steady_hypothesis()
        runner = Runner(project, options.jobs)
        runner.run(mutants)
        results = runner.results
    known = equivalents(root, project.equivalent)
    report = table(mutants, results, known)
    left = [m for m in mutants if results.get(m.key, {}).get("status") in (SURVIVED, UNTESTED) and reason_of(m, known) is None]
    (out / "report.md").write_text(f"{report}\n\n" + "\n".join(f"- `{m.path}:{m.line}` {m.change}" for m in left) + "\n")
    print(f"\n{report}\n\n{len(left)} survivors are listed in {out / 'report.md'}; {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
