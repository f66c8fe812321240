"""`quantize` and `compare` as the shell sees them: figures, one sentence for what went wrong, nothing left behind."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from quantize_models import write

from moshi_mlx.cli.main import main
from moshi_mlx.quantize.writer import partial_of


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture
def speech(tmp_path: Path, speechlike) -> Path:
    soundfile.write(tmp_path / "speech.wav", speechlike(13), 24_000)
    return tmp_path / "speech.wav"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("moshi-mlx: error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_the_built_in_model_is_quantized_run_and_judged(
    tmp_path: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, picture = tmp_path / "tiny-q4", tmp_path / "loss.png"
    figures = said(capsys, "quantize", "tiny", result, "--q-bits", 4)
    assert figures["recipe"] == "q4"
    assert figures["bytes"] < 0.2 * figures["source_bytes"]
    assert "not yet measured" in figures["quality"]
    assert said(capsys, "run", "--model", result, speech, tmp_path / "out.wav")["precision"] == "q4"
    report = said(capsys, "compare", "tiny", "tiny", result, "--audio", speech, "--picture", picture)
    same, q4 = (model["summary"]["acoustic"] for model in report["models"])
    assert same["divergence"] == 0 < q4["divergence"]
    assert q4["agreement"] < same["agreement"] == 1
    assert picture.stat().st_size > 10_000


def test_figures_and_tables_without_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(source), str(tmp_path / "result"), "--recipe", "mixed_4_6"]) == 0
    assert "bits per weight: " in capsys.readouterr().out
    assert main(["compare", str(source), str(tmp_path / "result")]) == 0
    assert "weight error, temporal: 8." in capsys.readouterr().out
    assert main(["quantize", "--recipes"]) == 0
    assert "q4: 4.8 GB, 4.6 GB a frame" in capsys.readouterr().out


def test_there_and_back(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "quantize", source, tmp_path / "q8", "--q-bits", 8)
    back = said(capsys, "quantize", tmp_path / "q8", tmp_path / "back", "--dequantize")
    assert back["recipe"] == "bf16"
    assert back["bits_per_weight"] == 16


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recipe", "q5"], "there is no recipe 'q5'"),
        (["--recipe", "q4", "--q-bits", "4"], "--recipe says all"),
        (["--q-bits", "7"], "no 7 bits"),
        (["--q-bits", "4", "--q-group-size", "48"], "groups of 48"),
        (["--q-mode", "mxfp4", "--q-bits", "8"], "mxfp4 has 4 bits"),
        (["-d", "--q-bits", "4"], "--dequantize goes back"),
        (["-d"], "nothing to undo"),
        (["--calibrate", "nowhere.wav"], "nowhere.wav"),
        (["--upload-repo", "a b"], "no repository's name"),
        (["--upload-repo", "me/model"], "needs a token"),
    ],
)
def test_bad_flags_are_one_sentence_and_leave_nothing(
    flags: list[str],
    words: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert words in refused(capsys, "quantize", source, tmp_path / "result", *flags)
    assert not list(tmp_path.glob("result*"))


def test_too_little_speech_to_calibrate_on(
    source: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = refused(capsys, "quantize", source, tmp_path / "result", "--q-bits", "4", "--calibrate", speech)
    assert "needs 1.0 minutes of speech" in words
    assert not list(tmp_path.glob("result*"))


class Refusing(BaseHTTPRequestHandler):
    """A Hub that knows nobody."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_token_that_is_not_taken_is_noticed_before_the_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        words = refused(capsys, "quantize", source, tmp_path / "result", "--upload-repo", "me/model")
        server.shutdown()
    assert "refuses the token for me/model (HTTP 401)" in words
    assert not list(tmp_path.glob("result*"))


@pytest.mark.parametrize(
    ("offline", "words"), [(True, "HF_HUB_OFFLINE is set"), (False, "the Hub cannot take me/model")]
)
def test_a_hub_that_cannot_be_reached_is_noticed_before_the_work(
    offline: bool,
    words: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert words in refused(capsys, "quantize", source, tmp_path / "result", "--upload-repo", "me/model")
    assert not list(tmp_path.glob("result*"))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_sources_that_are_none(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    refused(capsys, "quantize", f"{tmp_path}/{name}", tmp_path / "result")
    refused(capsys, "compare", f"{tmp_path}/{name}", f"{tmp_path}/{name}")
    assert not list(tmp_path.glob("result*"))


def test_a_missing_destination_and_one_that_is_taken(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a source and a destination" in refused(capsys, "quantize", source)
    assert "exists already" in refused(capsys, "quantize", source, tmp_path)
    partial_of(tmp_path / "result").mkdir()
    assert "--resume" in refused(capsys, "quantize", source, tmp_path / "result")
    assert said(capsys, "quantize", source, tmp_path / "result", "--resume")["recipe"] == "q4"


def test_compare_refuses_what_it_cannot_use(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 24_000)
    refused(capsys, "compare", source, source, "--audio", tmp_path / "nowhere.wav")
    assert "too short" in refused(capsys, "compare", "tiny", "tiny", "--audio", tmp_path / "short.wav")
    assert "does not exist" in refused(capsys, "compare", source, source, "--picture", tmp_path / "no" / "x.png")
