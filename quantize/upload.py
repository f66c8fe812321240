"""Sending a finished folder to the Hugging Face Hub. What can be refused is asked for before the work begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moshi_mlx.checkpoint.hub_errors import LOGIN, http_error
from moshi_mlx.errors import MoshiError, first_line


def check_upload(repo: str) -> None:
    """Make sure that the Hub answers and knows who is asking.

    Raises:
        MoshiError: no token, no network, or no repository's name.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except ValueError:
        raise MoshiError(f"{repo!r} is no repository's name; --upload-repo takes one like you/moshiko-q4") from None
    token = get_token()
    if token is None:
        raise MoshiError(f"uploading to {repo} needs a token; run {LOGIN}, or set HF_TOKEN")
    with _sentences(repo, "nothing was written"):
        HfApi().whoami(token=token)


def upload(folder: Path, repo: str) -> str:
    """Create the repository if need be and send the folder; returns its address.

    Raises:
        MoshiError: the Hub refuses or cannot be reached. The folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _sentences(
        repo, f"{folder} is complete: `uvx --from huggingface_hub hf upload {repo} {folder}` sends it again"
    ):
        url = api.create_repo(repo, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, repo_type="model", commit_message="moshi-mlx quantize")
    return str(url)


@contextmanager
def _sentences(repo: str, state: str) -> Iterator[None]:
    """What huggingface_hub raises, as one sentence."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise MoshiError(f"HF_HUB_OFFLINE is set, so {repo} cannot be uploaded; {state}") from None
    except (http_error(), OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise MoshiError(f"the Hub refuses the token for {repo} (HTTP {status}); {state}") from None
        reason = f"HTTP {status}" if status else first_line(error)
        raise MoshiError(f"the Hub cannot take {repo} ({reason}); {state}") from None
