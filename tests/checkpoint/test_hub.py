"""Finding and downloading: the real huggingface_hub, in a process of its own, against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import COMMIT, Hub, serving

from moshi_mlx.checkpoint.choice import choose_bits
from moshi_mlx.checkpoint.companions import companion
from moshi_mlx.checkpoint.hub import locate
from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import CONFIG
from moshi_mlx.checkpoint.weight_files import INDEX
from moshi_mlx.errors import CheckpointError, MoshiError

MB = 1_000_000
DRIVER = """
import json, sys
from moshi_mlx.checkpoint import hub
from moshi_mlx.errors import MoshiError
request, notes, asked = json.loads(sys.argv[1]), [], []
def ask(download):
    asked.append([download.repo, sorted(f.name for f in download.files), download.total_bytes,
                  download.present_bytes, download.free_bytes, str(download.destination)])
    return request["agree"]
try:
    asking = {} if request["call"] == "whereabouts" else {"ask": ask}
    answer = {"path": str(getattr(hub, request["call"])(
        request["model"], notify=notes.append, **asking, **request["options"]))}
except MoshiError as error:
    answer = {"error": str(error)}
print(json.dumps({"path": None, "error": None, **answer, "notes": notes, "asked": asked}))
"""


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def repository(weights: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """A repository of a small model: config, weights, codec, tokenizer, and what nobody needs."""
    config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# A model",
        "picture.png": random_bytes(1000),
        "config.json": json.dumps(config).encode(),
        MIMI: random_bytes(2 * MB, seed=9),
        TOKENIZER: random_bytes(5000, seed=8),
        **weights,
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    small = {"model.safetensors": random_bytes(2 * MB)}
    with serving(Hub(repos={"kyutai/small": repository(small)})) as hub:
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    return {
        **kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip


def command(model: str, call: str = "locate", agree: bool = True, **options: Any) -> list[str]:
    request = {"call": call, "model": model, "agree": agree, "options": options}
    return [sys.executable, "-c", DRIVER, json.dumps(request)]


@pytest.fixture
def ask_hub(environment: dict[str, str]) -> Callable[..., dict[str, Any]]:
    def ask(model: str, call: str = "locate", agree: bool = True, env: Any = None, **options: Any) -> dict[str, Any]:
        done = subprocess.run(
            command(model, call, agree, **options), env={**environment, **(env or {})}, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        if answer["error"]:
            assert "\n" not in answer["error"]
            assert "Traceback" not in done.stderr
        return answer

    return ask


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_only_the_files_of_the_checkpoint_are_downloaded(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    answer = ask_hub("kyutai/small")
    wanted = {"config.json", "model.safetensors", MIMI, TOKENIZER}
    assert names(answer["path"]) == wanted == hub.fetched()
    for name in wanted:
        assert (Path(answer["path"]) / name).read_bytes() == hub.repos["kyutai/small"][name]


def test_what_is_here_is_used_without_asking_the_network(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    first = ask_hub("kyutai/small")["path"]
    hub.seen.clear()
    assert ask_hub("kyutai/small")["path"] == first
    assert hub.seen == []
    assert ask_hub("kyutai/small", env={"HF_HUB_OFFLINE": "1"})["path"] == first


def test_a_refresh_asks_the_hub_and_falls_back_on_what_is_here(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    first = ask_hub("kyutai/small")["path"]
    hub.seen.clear()
    assert ask_hub("kyutai/small", refresh=True)["path"] == first
    assert hub.seen
    assert hub.downloads() == []
    hub.status = 503
    answer = ask_hub("kyutai/small", refresh=True)
    assert answer["path"] == first
    assert "503" in answer["notes"][0]


@pytest.mark.parametrize("spelling", ["hf://kyutai/small", "https://huggingface.co/kyutai/small", "kyutai/small@main"])
def test_a_repository_may_be_spelled_as_it_is_found(spelling: str, ask_hub: Callable[..., dict[str, Any]]) -> None:
    assert names(ask_hub(spelling)["path"]) >= {"model.safetensors"}


def test_a_revision_is_what_is_downloaded(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    assert Path(ask_hub(f"kyutai/small@{COMMIT}")["path"]).name == COMMIT
    assert "no revision 'v9'" in ask_hub("kyutai/small@v9")["error"]


def test_shards_come_by_their_index(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    shards = {f"model-{i}-of-2.safetensors": random_bytes(2 * MB, seed=i) for i in (1, 2)}
    index = json.dumps({"weight_map": {f"tensor{i}": name for i, name in enumerate(shards)}}).encode()
    hub.repos["kyutai/sharded"] = repository({**shards, INDEX: index}, moshi_name=None)
    assert names(ask_hub("kyutai/sharded")["path"]) == {*shards, INDEX, "config.json", MIMI, TOKENIZER}
    del hub.repos["kyutai/sharded"]["model-2-of-2.safetensors"]
    hub.repos["kyutai/broken"] = hub.repos.pop("kyutai/sharded")
    assert "lacks model-2-of-2.safetensors" in ask_hub("kyutai/broken")["error"]


def test_several_precisions_in_one_repository_are_not_downloaded_at_once(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    both = {f"model.q{b}.safetensors": random_bytes(2 * MB, seed=b) for b in (4, 8)}
    hub.repos["kyutai/both"] = repository(both, moshi_name=None)
    assert "several checkpoints" in ask_hub("kyutai/both")["error"]
    assert hub.downloads() == []
    hub.repos["kyutai/named"] = repository(both, moshi_name="model.q8.safetensors")
    assert "model.q4.safetensors" not in names(ask_hub("kyutai/named")["path"])


def test_short_names_stand_for_the_published_repositories(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    published = {4: "mlx-q4/model.q4", 8: "mlx-q8/model.q8", 16: "mlx-bf16/model"}
    for bits, words in published.items():
        repo, weights = words.split("/")
        files = repository({f"{weights}.safetensors": random_bytes(2 * MB, seed=bits)})
        del files["config.json"]  # as Kyutai's first repositories
        hub.repos[f"kyutai/moshika-{repo}"] = files
    for bits, words in published.items():
        answer = ask_hub("moshika", bits=bits)
        assert f"models--kyutai--moshika-{words.split('/')[0]}/" in answer["path"]
        assert names(answer["path"]) == {f"{words.split('/')[1]}.safetensors", MIMI, TOKENIZER}


def test_asking_where_a_short_name_is_fetches_nothing_even_beside_a_folder_of_that_name(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repos["kyutai/moshiko-mlx-q4"] = repository({"model.safetensors": random_bytes(2 * MB)})
    (tmp_path / "moshiko").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "kyutai/moshiko-mlx-q4" in ask_hub("moshiko", "whereabouts", bits=4)["path"]
    assert hub.downloads() == []


def test_without_bits_the_choice_is_told(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    for word in ("q4", "q8", "bf16"):
        hub.repos[f"kyutai/moshiko-mlx-{word}"] = repository({"model.safetensors": random_bytes(2 * MB)})
    answer = ask_hub("moshiko")
    chosen = answer["path"].split("models--kyutai--moshiko-mlx-")[1].split("/")[0]
    assert answer["notes"][0].startswith(f"moshiko: {chosen} ")


def test_offline_a_short_name_is_the_precision_that_is_here(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    hub.repos["kyutai/moshiko-mlx-q8"] = repository({"model.safetensors": random_bytes(2 * MB)})
    hub.repos["kyutai/moshiko-mlx-bf16"] = repository({"model.safetensors": random_bytes(2 * MB)})
    fetched = {ask_hub("moshiko", bits=bits)["path"] for bits in (8, 16)}
    answer = ask_hub("moshiko", env={"HF_HUB_OFFLINE": "1"})
    assert answer["path"] in fetched
    assert answer["notes"]


def test_a_missing_codec_and_tokenizer_come_from_the_published_model(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = repository({"model.safetensors": random_bytes(2 * MB)}, text_card=32000, mimi_name=None, tokenizer_name=None)
    hub.repos["kyutai/moshiko-mlx-q4"] = {name: bare[name] for name in (MIMI, TOKENIZER)}
    hub.repos["other/bare"] = {n: body for n, body in bare.items() if n not in (MIMI, TOKENIZER)}
    answer = ask_hub("other/bare")
    assert names(answer["path"]) == {"config.json", "model.safetensors"}
    assert ["taken from kyutai/moshiko-mlx-q4" in note for note in answer["notes"]] == [True, True]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    assert companion(Path(answer["path"]), "mimi_name", MIMI).read_bytes() == bare[MIMI]
    assert companion(Path(answer["path"]), "tokenizer_name", TOKENIZER).read_bytes() == bare[TOKENIZER]
    hub.seen.clear()
    assert ask_hub("other/bare")["path"] == answer["path"]
    assert hub.seen == []


def test_a_codec_named_in_another_repository_is_found_there(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    files = repository({"model.safetensors": random_bytes(2 * MB)}, mimi_name="hf://other/codecs/mimi@125.safetensors")
    del files[MIMI]
    hub.repos["kyutai/elsewhere"] = files
    hub.repos["other/codecs"] = {"mimi@125.safetensors": random_bytes(3 * MB, seed=4)}
    answer = ask_hub("kyutai/elsewhere")
    assert "mimi@125.safetensors" in hub.fetched()
    mimi = ask_hub("kyutai/elsewhere", call="find_mimi", env={"HF_HUB_OFFLINE": "1"})["path"]
    assert Path(mimi).read_bytes() == hub.repos["other/codecs"]["mimi@125.safetensors"]
    assert mimi == ask_hub(answer["path"], call="find_mimi")["path"]


def test_a_tokenizer_of_another_vocabulary_is_not_replaced(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    files = repository({"model.safetensors": random_bytes(2 * MB)}, tokenizer_name=None)
    del files[TOKENIZER]
    hub.repos["kyutai/mute"] = files
    assert f"lacks {TOKENIZER}" in ask_hub("kyutai/mute")["error"]
    assert hub.downloads() == []


def test_the_codec_alone_is_all_that_find_mimi_downloads(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    path = ask_hub("kyutai/small", call="find_mimi")["path"]
    assert Path(path).read_bytes() == hub.repos["kyutai/small"][MIMI]
    assert hub.fetched() == {"config.json", MIMI}


def test_gigabytes_are_announced_with_size_and_disk_and_asked_for_once(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]], environment: dict[str, str]
) -> None:
    hub.repos["kyutai/big"] = repository({"model.safetensors": random_bytes(60 * MB)})
    refused = ask_hub("kyutai/big", agree=False)
    assert refused["error"] == "kyutai/big was not downloaded, as you answered"
    assert hub.downloads() == []
    [(repo, files, total, present, free, destination)] = refused["asked"]
    assert (repo, files) == ("kyutai/big", sorted(["model.safetensors", MIMI, TOKENIZER]))
    assert (total, present) == (60 * MB + 2 * MB + 5000, 0)
    assert free > 60 * MB
    assert destination == environment["HF_HOME"] + "/hub"
    agreed = ask_hub("kyutai/big")
    assert len(agreed["asked"]) == 1
    assert agreed["path"]
    assert ask_hub("kyutai/small")["asked"] == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    hub.declared["model.safetensors"] = 10**15
    error = ask_hub("kyutai/small")["error"]
    assert "1000000.0 GB are to be downloaded" in error
    assert "HF_HOME" in error
    assert hub.downloads() == []


def test_a_dropped_connection_is_taken_up_where_it_broke(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    weights = random_bytes(36 * MB)
    hub.repos["kyutai/big"] = repository({"model.safetensors": weights})
    hub.drops = [24 * MB]
    answer = ask_hub("kyutai/big")
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == weights
    first, second, _ = (seen.range for seen in hub.downloads())
    assert first is None
    assert second is not None
    assert 10 * MB <= int(second.removeprefix("bytes=").removesuffix("-")) <= 24 * MB


def test_a_killed_download_goes_on_where_it_stopped(
    hub: Hub, environment: dict[str, str], ask_hub: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    weights = random_bytes(100 * MB)
    hub.repos["kyutai/big"] = repository({"model.safetensors": weights})
    hub.stall_after = 40 * MB
    process = subprocess.Popen(command("kyutai/big"), env=environment, stdout=subprocess.DEVNULL)
    blobs = tmp_path / "hf/hub/models--kyutai--big/blobs"
    for _ in range(600):
        piece = next(blobs.glob("*.incomplete"), None)
        if piece and piece.stat().st_size >= 30 * MB:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    piece = next(blobs.glob("*.incomplete"))
    left = piece.stat().st_size
    hub.stall_after = None
    hub.seen.clear()
    answer = ask_hub("kyutai/big")
    [(_, _, total, present, _, _)] = answer["asked"]
    assert (total, present) == (102 * MB + 5000, left)
    assert f"bytes={left}-" in [seen.range for seen in hub.downloads()]
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == weights
    assert not piece.exists()


def test_what_arrives_damaged_is_not_kept(hub: Hub, ask_hub: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    hub.repos["kyutai/big"] = repository({"model.safetensors": random_bytes(12 * MB)})
    hub.damage = True
    assert "model.safetensors of kyutai/big arrived damaged" in ask_hub("kyutai/big")["error"]
    hub.damage = False
    assert ask_hub("kyutai/big")["path"]


def test_a_server_that_falls_silent_ends_in_a_sentence(hub: Hub, ask_hub: Callable[..., dict[str, Any]]) -> None:
    hub.repos["kyutai/big"] = repository({"model.safetensors": random_bytes(12 * MB)})
    hub.drops = [11 * MB] + [0] * 20
    error = ask_hub("kyutai/big")["error"]
    assert error.startswith("the download of model.safetensors from kyutai/big broke off")
    assert error.endswith("it goes on where it stopped")


@pytest.mark.parametrize(
    ("fault", "model", "said"),
    [
        ({}, "kyutai/none", "has no model kyutai/none"),
        ({"gated": {"kyutai/small"}}, "kyutai/small", "accept its terms at http"),
        ({"private": {"kyutai/small"}}, "kyutai/small", "run `uvx --from huggingface_hub hf auth login`"),
        ({"status": 403}, "kyutai/small", "(HTTP 403)"),
        ({"status": 429}, "kyutai/small", "too many requests"),
        ({"status": 503}, "kyutai/small", "(HTTP 503); try again"),
        ({"nonsense": True}, "kyutai/small", "does the network ask for a login"),
    ],
)
def test_what_the_hub_refuses_ends_in_one_sentence(
    fault: dict[str, Any], model: str, said: str, hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    for name, value in fault.items():
        setattr(hub, name, value)
    assert said in ask_hub(model)["error"]


def test_a_token_opens_what_is_private_and_is_told_to_the_hub_alone(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    hub.repos["kyutai/big"] = repository({"model.safetensors": random_bytes(12 * MB)})
    hub.private = {"kyutai/big"}
    assert ask_hub("kyutai/big", env={"HF_TOKEN": "hf_secret"})["path"]
    assert {seen.token for seen in hub.seen if seen.host == "127.0.0.1"} == {"Bearer hf_secret"}
    assert hub.downloads()
    assert {seen.token for seen in hub.downloads()} == {None}


def test_no_network_and_nothing_here_say_what_to_do(ask_hub: Callable[..., dict[str, Any]]) -> None:
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "http://127.0.0.1:9 cannot be reached" in ask_hub("kyutai/small", env=nobody)["error"]
    unknown = {"HF_ENDPOINT": "http://no-such-host.invalid"}
    assert "cannot be reached" in ask_hub("kyutai/small", env=unknown)["error"]
    assert "HF_HUB_OFFLINE is set" in ask_hub("kyutai/small", env={"HF_HUB_OFFLINE": "1"})["error"]
    assert "HF_HUB_OFFLINE is set" in ask_hub("moshiko", env={"HF_HUB_OFFLINE": "1"})["error"]


def test_a_model_that_cannot_run_is_refused_before_its_weights_are_fetched(
    hub: Hub, ask_hub: Callable[..., dict[str, Any]]
) -> None:
    hub.repos["other/llama"] = repository({"model.safetensors": random_bytes(2 * MB)}, n_q=None)
    assert "'n_q' is missing" in ask_hub("other/llama")["error"]
    hub.repos["other/notes"] = {"README.md": b"nothing"}
    assert "holds no Moshi weights" in ask_hub("other/notes")["error"]
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("model", "bits", "said"),
    [
        ("moshyko", None, "did you mean moshiko?"),
        ("gpt", None, "give moshiko, moshika or tiny"),
        ("./nowhere", None, "nowhere does not exist"),
        ("moshiko", 5, "choose 4, 8 or 16"),
        ("tiny", 4, "leave -q out"),
        ("kyutai/small", 8, "leave -q out"),
        ("kyutai/moshika-mlx-q4", 8, "leave -q out"),
        ("a/b/c", None, "there is no model"),
        ("", None, "there is no model"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_what_would(model: str, bits: int | None, said: str) -> None:
    with pytest.raises(MoshiError, match=said.replace("?", r"\?")):
        locate(model, bits)


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in repository({"model.q4.safetensors": b"weights"}, moshi_name=None).items():
        (tmp_path / name).write_bytes(body)
    assert locate(str(tmp_path)) == tmp_path
    assert locate(str(tmp_path), bits=4) == tmp_path
    with pytest.raises(CheckpointError, match="leave -q out"):
        locate(str(tmp_path), bits=8)
    monkeypatch.chdir(tmp_path.parent)
    assert locate(tmp_path.name).resolve() == tmp_path
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        locate(str(tmp_path / "config.json"))
    (tmp_path / "model.q4.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no Moshi weights"):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    ("memory", "bandwidth", "bits", "said"),
    [
        (16e9, 200e9, 4, "q8 would take about 75 of 80 ms"),  # an M1 Pro
        (16e9, 68e9, 4, "q4 is the smallest, and even that may not keep up"),  # an M1
        (9e9, 400e9, 4, "q8 needs"),
        (5e9, 400e9, 4, "even that needs 8.4 GB"),
        (32e9, 400e9, 8, "bf16 would take"),  # an M1 Max
        (64e9, 800e9, 16, "bf16 has the most bits"),  # an Ultra
        (16e9, 800e9, 8, "bf16 needs"),
    ],
)
def test_the_most_bits_that_fit_and_keep_up_are_chosen(memory: float, bandwidth: float, bits: int, said: str) -> None:
    choice = choose_bits(memory=int(memory), bandwidth=lambda: bandwidth)
    assert choice.bits == bits
    assert said in choice.reason


def test_bandwidth_is_measured_only_where_it_decides() -> None:
    def never() -> float:
        raise AssertionError("measured for nothing")

    assert choose_bits(memory=10**9, bandwidth=never).bits == 4
