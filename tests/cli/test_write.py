from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helium_weights import CONFIG, tensors
from hub_server import Hub, serving
from safetensors.numpy import save

PROMPT = "Hello, how are"
COMMAND = [sys.executable, "-m", "moshi_mlx.cli.main", "write"]


def write(
    *arguments: str | bytes, model: str = "tiny-helium", stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, "--model", model, *arguments], input=stdin, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def report() -> dict:
    done = write(PROMPT, "--max-tokens", "20", "--json")
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_json_tells_text_and_figures(report):
    assert (report["prompt"], report["end"], report["tokens"]) == (PROMPT, "max tokens", 20)
    assert report["prompt_tokens"] > 3
    assert report["text"]
    assert report["first_token_seconds"] > 0
    assert report["tokens_per_second"] > 0
    assert (report["model"], report["precision"], report["seed"]) == ("tiny-helium", "float32", 0)


def test_prompt_and_text_go_to_stdout_and_figures_to_stderr(report):
    done = write(PROMPT, "--max-tokens", "20")
    assert done.returncode == 0
    assert done.stdout.decode() == f"{PROMPT}{report['text']}\n"
    assert "20 in all at" in done.stderr.decode()
    assert "what it says is noise" in done.stderr.decode()


def test_a_prompt_from_stdin_is_the_same_prompt(report):
    done = write("-", "--max-tokens", "20", "--json", stdin=f"{PROMPT}\n".encode())
    assert json.loads(done.stdout)["text"] == report["text"]


def test_sampling_flags_reach_the_model(report):
    texts = {
        json.loads(write(PROMPT, "--max-tokens", "20", "--json", *flags).stdout)["text"]
        for flags in (("--temp", "0"), ("--top-k", "1"), ("--top-p", "0.0001"), ("--min-p", "1"))
    }
    assert len(texts) == 1  # four ways to say: the likeliest
    assert texts != {report["text"]}


FAILURES = {
    "no prompt": (("  ",), "tiny-helium", b"", "the prompt is empty"),
    "nothing on stdin": (("-",), "tiny-helium", b"\n", "what comes on stdin is empty"),
    "latin-1 on stdin": (("-",), "tiny-helium", b"un caf\xe9", "what comes on stdin is not UTF-8 (byte 6)"),
    "latin-1 in the argument": ((b"caf\xe9",), "tiny-helium", b"", "the prompt is not UTF-8 (byte 3)"),
    "a model that listens": ((PROMPT,), "tiny-stt", b"", "use `moshi-mlx transcribe --model tiny-stt`"),
    "a model that converses": ((PROMPT,), "tiny", b"", "use `moshi-mlx chat --model tiny`"),
    "no tokens": ((PROMPT, "--max-tokens", "0"), "tiny-helium", b"", "--max-tokens must be at least 1"),
    "no share": ((PROMPT, "--top-p", "0"), "tiny-helium", b"", "top-p must be above 0"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_is_told_in_one_sentence(name):
    arguments, model, stdin, told = FAILURES[name]
    done = write(*arguments, model=model, stdin=stdin)
    *_, line = done.stderr.decode().strip().splitlines()
    assert (done.returncode, done.stdout) == (2, b"")
    assert line.startswith("moshi-mlx: error: ")
    assert told in line


def test_words_that_the_terminal_cannot_show_are_marked():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*COMMAND, "--model", "tiny-helium", "Où", "--max-tokens", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout[:2]) == (0, b"O?")


def test_ctrl_c_ends_with_the_text_so_far():
    process = subprocess.Popen(
        [*COMMAND, "--model", "tiny-helium", PROMPT, "--max-tokens", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    begun = os.read(process.stdout.fileno(), len(PROMPT) + 1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    text = (begun + rest).decode()
    assert text.startswith(PROMPT)
    assert text.endswith("\n")
    assert errors.decode().strip().endswith("(interrupted)")
    assert "Traceback" not in errors.decode()


def test_a_reader_that_goes_away_ends_it_quietly():
    process = subprocess.Popen(
        [*COMMAND, "--model", "tiny-helium", PROMPT, "--max-tokens", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 5)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert b"Traceback" not in errors


def on_hub(repos: dict[str, dict[str, bytes]], home: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """A command that finds these repositories on the Hub, and nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    with serving(Hub(repos=repos)) as hub:
        environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        arguments = [sys.executable, "-m", "moshi_mlx.cli.main", *command]
        return subprocess.run(arguments, env=environment, capture_output=True, timeout=300)


def test_without_a_model_it_is_helium_as_hugging_face_has_it(tmp_path):
    """What is served under that name is a small one; nothing but its three files is fetched."""
    tokenizer = Path(__file__).parents[1] / "goldens" / "helium_tokenizer.json"
    repository = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": save(tensors(CONFIG, 0)),
        "tokenizer.json": tokenizer.read_bytes(),
        "tokenizer_config.json": b"{}",
        "README.md": b"# Helium",
    }
    done = on_hub({"kyutai/helium-1-preview-2b": repository}, tmp_path, "write", PROMPT, "--max-tokens", "5", "--json")
    report = json.loads(done.stdout)
    assert (report["model"], report["tokens"], report["precision"]) == ("kyutai/helium-1-preview-2b", 5, "float32")
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} == {
        "config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip


def test_of_the_mlx_repository_the_precision_with_the_most_bits_is_fetched(tmp_path):
    """It has four beside one another, and no config.json: what they are is known from their names."""
    weights = {f"helium-1-preview-2b-{form}.safetensors": save({"a": np.zeros(1)}) for form in ("q4", "q8", "bf16")}
    repository = {**weights, "tokenizer_spm_48k_multi6_2.model": b"pieces", "README.md": b"# Helium"}
    name = "kyutai/helium-1-preview-2b-mlx"
    assert on_hub({name: repository}, tmp_path, "download", name).returncode == 0
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} == {
        "helium-1-preview-2b-bf16.safetensors", "tokenizer_spm_48k_multi6_2.model"
    }  # fmt: skip
