"""What goes wrong between here and the Hugging Face Hub, each in one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from ..errors import CheckpointError, first_line

LOGIN = "`uvx --from huggingface_hub hf auth login`"
"""How to leave a token on this machine: the Hub's own command is not installed with this program."""


class OfflineError(CheckpointError):
    """The Hub cannot be reached or does not answer; what was downloaded before may do."""


@contextmanager
def hub_sentences(repo: str, revision: str, name: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a CheckpointError about `name` of `repo`.

    Raises:
        OfflineError: no network, a server that fails, or HF_HUB_OFFLINE.
        CheckpointError: everything else.
    """
    try:
        yield
    except (http_error(), OSError) as error:
        raise _explain(error, repo, revision, name) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OfflineError(
            f"{_endpoint()} does not answer as the Hugging Face Hub does ({type(error).__name__}); does the network "
            "ask for a login, or is HF_ENDPOINT wrong?"
        ) from error


def http_error() -> type[Exception]:
    """What huggingface_hub's HTTP library raises: httpx2, httpx or requests, by version.

    The first base of huggingface_hub's own error is that library's.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])


def _explain(error: BaseException, repo: str, revision: str, name: str | None) -> CheckpointError:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _explain(error.__cause__, repo, revision, name)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(f"{repo} is not downloaded and HF_HUB_OFFLINE is set; unset it to download")
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repo} is gated: accept its terms at {_endpoint()}/{repo}, then run {LOGIN} or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"{_endpoint()} has no model {repo}, or it is private: check the spelling, or run {LOGIN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo} has no revision {revision!r}; leave it out for the newest")
    if isinstance(error, errors.EntryNotFoundError):
        return CheckpointError(f"{repo} has no file {name}; it may have changed just now: try again")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return _refusal(status, repo)
    return _broken(error, repo, name)


def _refusal(status: int, repo: str) -> CheckpointError:
    if status in (401, 403):
        return CheckpointError(
            f"the Hub refuses {repo} (HTTP {status}): run {LOGIN}, or set HF_TOKEN to a token that may read it"
        )
    if status == 429:
        return OfflineError("the Hub has had too many requests (HTTP 429); wait a few minutes, or set HF_TOKEN")
    return OfflineError(f"the Hub cannot give {repo} at the moment (HTTP {status}); try again in a few minutes")


def _broken(error: BaseException, repo: str, name: str | None) -> CheckpointError:
    """An error that came without an answer: the disk's, or the network's."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(f"the disk filled up while downloading {repo}; make room and run it again")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CheckpointError(f"{error}: the download folder cannot be written; set HF_HOME to another")
    again = "check the network and run the same command again"
    if name is not None:
        return OfflineError(
            f"the download of {name} from {repo} broke off ({_kind(error)}); {again}: it goes on where it stopped"
        )
    return OfflineError(f"{_endpoint()} cannot be reached ({_kind(error)}); {again}")


def _kind(error: BaseException) -> str:
    if "Timeout" in type(error).__name__:
        return "no answer in time"
    return first_line(error)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
