"""`make sanitize` sees what it is there for: planted faults, built with its flags, are reported; sound code is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sanitize

SOURCE = r"""
#include <cstdint>
#include <thread>
extern "C" int sound(int n) {
  int* a = new int[n];
  int sum = 0;
  std::thread other([&] { a[n - 1] = n; });
  other.join();
  sum = a[n - 1];
  delete[] a;
  return sum;
}
extern "C" int past_the_end(int n) {
  int* a = new int[n];
  a[n - 1] = n;
  volatile int sum = a[n];
  delete[] a;
  return sum;
}
extern "C" int cast_overflow(int n) {
  volatile float x = 1e20f * n;
  return static_cast<int32_t>(x);
}
extern "C" int signed_overflow(int n) {
  volatile int x = 0x7fffffff;
  return x + n;
}
extern "C" int race(int n) {
  int total = 0;
  const auto add = [&] { for (int i = 0; i < 100 * n; ++i) reinterpret_cast<volatile int&>(total) += 1; };
  std::thread a(add), b(add);
  a.join();
  b.join();
  return total;
}
"""


@pytest.fixture(scope="module", params=["address", "thread"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    kind = request.param
    if reason := sanitize.missing(kind):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(kind)
    (folder / "planted.cpp").write_text(SOURCE)
    command = ["g++", "-std=c++20", "-shared", "-fPIC", "-pthread", *sanitize.flags(kind), "planted.cpp", "-o", "planted.so"]
    subprocess.run(command, check=True, cwd=folder)
    return kind, folder


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        ("sound", {}),
        ("past_the_end", {"address": "heap-buffer-overflow"}),
        ("cast_overflow", {"address": "outside the range of representable values"}),
        ("signed_overflow", {"address": "signed integer overflow"}),
        ("race", {"thread": "data race"}),
    ],
)
def test_planted_faults_are_reported(planted: tuple[str, Path], function: str, reported: dict[str, str], tmp_path: Path) -> None:
    kind, folder = planted
    status, reports = sanitize.run(kind, ["-c", f"import ctypes; ctypes.CDLL('{folder}/planted.so').{function}(3)"], tmp_path / "reports")
    if kind in reported:
        assert reported[kind] in reports
        assert function in reports  # where
    else:
        assert (status, reports) == (0, "")


@pytest.mark.parametrize("value", ["address", "memory"])
def test_sanitized_builds_stay_in_their_folder(value: str) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=sanitize.ROOT, env=os.environ | {"ORDKERNELS_SANITIZE": value}, capture_output=True, text=True, check=False
    )
    assert done.returncode
    expected = "--build-lib below build/sanitize, got build/" if value == "address" else "'address' or 'thread', got 'memory'"
    assert f"ORDKERNELS_SANITIZE: expected {expected}" in done.stderr
