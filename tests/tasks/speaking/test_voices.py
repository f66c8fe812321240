"""Voices by name: the real huggingface_hub, in a process of its own, against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serving

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.speaking.voices import VOICES, VoiceBook, match

SUFFIX = ".1e68beda@240.safetensors"
HAPPY = "expresso/ex03-ex01_happy_001_channel1_334s.wav"
RECORDINGS = (HAPPY, "expresso/ex03-ex02_laughing_001_channel1_188s.wav", "vctk/p225_023.wav", "cml-tts/fr/p225.mp3")
DRIVER = """
import json, sys
from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.speaking.voices import VoiceBook
book, answers = VoiceBook(None, sys.argv[1]), []
for call, *given in json.loads(sys.argv[2]):
    try:
        notes = []
        found = book.names(notes.append) if call == "names" else book.find(*given)
        answers.append([found if call == "names" else str(found), *notes])
    except MoshiError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


def voices_hub() -> Hub:
    files = {"README.md": b"# Voices", **{name: name.encode() for name in RECORDINGS}}
    files |= {name + SUFFIX: f"vectors of {name}".encode() for name in RECORDINGS[:3]}
    files["vctk/p226_023.wav.0bad0bad@1.safetensors"] = b"of another model"
    return Hub(repos={VOICES: files, "someone/voices": {"me.wav" + SUFFIX: b"mine"}})


def ask(home: Path, hub: Hub, *requests: list[str], suffix: str = SUFFIX, **environment: str) -> list[list[Any]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    set_here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, suffix, json.dumps(requests)], env=kept | set_here, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_voice_by_name_is_downloaded_alone_and_once(tmp_path: Path) -> None:
    with serving(voices_hub()) as hub:
        [names], [happy], [again], [short], [mine] = ask(
            tmp_path, hub, ["names"], ["find", HAPPY], ["find", HAPPY + SUFFIX], ["find", "p225_023"],
            ["find", "hf://someone/voices/me.wav"],
        )  # fmt: skip
        fetched, asked = hub.fetched(), len(hub.seen)
        offline = ask(tmp_path, hub, ["find", "ex03-ex01_happy_001_channel1_334s"], ["names"], HF_HUB_OFFLINE="1")
        assert len(hub.seen) == asked
    assert names == sorted(RECORDINGS[:3])
    assert happy == again
    assert Path(happy).read_text() == f"vectors of {HAPPY}"
    assert Path(short).read_text() == "vectors of vctk/p225_023.wav"
    assert Path(mine).read_text() == "mine"
    assert fetched == {Path(HAPPY).name + SUFFIX, "p225_023.wav" + SUFFIX, "me.wav" + SUFFIX}
    assert offline[0] == [happy]
    assert offline[1][0] == sorted([HAPPY, "vctk/p225_023.wav"])
    assert "downloaded before" in offline[1][1]


def test_a_model_that_takes_recordings_is_given_them(tmp_path: Path) -> None:
    with serving(voices_hub()) as hub:
        [names], [found] = ask(tmp_path, hub, ["names"], ["find", "vctk/p225_023"], suffix="")
    assert names == sorted(RECORDINGS)
    assert Path(found).read_text() == "vctk/p225_023.wav"


def test_an_unknown_voice_is_one_sentence_with_what_is_near(tmp_path: Path) -> None:
    with serving(voices_hub()) as hub:
        answers = ask(tmp_path, hub, ["find", "p225_032"], ["find", "laughing"], ["find", "qqqq"], ["find", "hf://a/b"])
        nowhere = ask(tmp_path / "new", hub, ["find", HAPPY], HF_HUB_OFFLINE="1")
    errors = [answer[1] for answer in answers]
    assert errors[0].startswith("there is no voice 'p225_032'; near to it: vctk/p225_023.wav")
    assert "expresso/ex03-ex02_laughing_001_channel1_188s.wav" in errors[1]
    assert errors[2] == "there is no voice 'qqqq' (--list-voices shows all 3)"
    assert "hf://org/repo/name" in errors[3]
    assert nowhere[0][0] == "OfflineError"
    assert all("\n" not in error for error in errors)


def test_a_name_that_could_be_several_is_refused() -> None:
    with pytest.raises(MoshiError, match=r"could be several voices: a/x\.wav, b/x\.wav"):
        match("x", ["a/x.wav", "b/x.wav"])
    assert match("x", ["a/x.wav", "b/x.wav", "x"]) == "x"


def test_a_models_own_voices_come_first(tmp_path: Path) -> None:
    own = tmp_path / "voices" / "folder" / f"anna.wav{SUFFIX}"
    own.parent.mkdir(parents=True)
    own.touch()
    book = VoiceBook(tmp_path / "voices", SUFFIX)
    assert book.default == "folder/anna.wav"
    assert book.find("anna") == own
    with pytest.raises(MoshiError, match=r"no voice 'hanna'; near to it: folder/anna\.wav"):
        book.find("hanna")


def test_a_file_is_a_voice_too(tmp_path: Path) -> None:
    vectors, sound = tmp_path / "me.safetensors", tmp_path / "me.wav"
    vectors.touch()
    sound.touch()
    assert VoiceBook(None, SUFFIX).find(str(vectors)) == vectors
    assert VoiceBook(None, "").find(str(sound)) == sound
    with pytest.raises(MoshiError, match="reads speakers as vectors"):
        VoiceBook(None, SUFFIX).find(str(sound))
    with pytest.raises(MoshiError, match="there is no voice"):
        VoiceBook(tmp_path, ".safetensors").find("a" * 300)
    with pytest.raises(MoshiError, match="no such file"):
        VoiceBook(None, SUFFIX).find(str(tmp_path / "you.safetensors"))
