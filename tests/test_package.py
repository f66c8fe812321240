"""What is built from the repository is the whole program and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"moshi_mlx": "moshi_mlx", "cli": "moshi_mlx/cli", "quantize": "moshi_mlx/quantize"}
"""Where each folder of the repository lies in the wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as for a release: from the source distribution, and that from a copy of the repository."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in [*FOLDERS, "tests"]:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source / name)
    archive = folder / build("sdist", source, folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return zipfile.ZipFile(folder / build("wheel", folder / archive.name.removesuffix(".tar.gz"), folder))


def build(kind: str, source: Path, target: Path) -> str:
    """The name of the archive that setuptools makes of the sources, without a network."""
    script = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    result = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def test_the_wheel_holds_every_file_of_every_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    assert "moshi_mlx/py.typed" in expected
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(expected - packed) == [], "not in the wheel; add the folder to pyproject.toml"
    assert sorted(packed - expected) == []


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_the_wheel_installs_one_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    information = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(information["entry_points.txt"]).decode().split() == [
        "[console_scripts]",
        "moshi-mlx",
        "=",
        "moshi_mlx.cli.main:main",
    ]
    assert wheel.read(information["LICENSE"]).decode() == (ROOT / "LICENSE").read_text()


def test_no_installer_takes_it_for_a_python_without_a_codec(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    mlx = {line for line in metadata.get_all("Requires-Dist", []) if line.startswith("mlx") and "mlx-lm" not in line}
    assert len(mlx) == 2
    assert any("darwin" in line and "[cpu]" not in line for line in mlx)
    assert any("linux" in line and "[cpu]" in line for line in mlx)
