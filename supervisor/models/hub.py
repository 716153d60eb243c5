"""The hub of models: what it has, its files, and plain errors.

Which hub: `HF_ENDPOINT`, as `huggingface_hub` reads it. Who asks: the token that the caller gives; none that lies
about on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hugind.supervisor.models.download_plan import DownloadError, Plan, RemoteFile, Repository, make_plan
from hugind.supervisor.models.library import can_be_fetched
from hugind.supervisor.models.repository import Reference, is_model_file

_AGENT = "hugind"
_RETRIED = (408, 429, 500, 502, 503, 504)


class Hub:
    """The hub as somebody sees it. Blocks on the network."""

    def __init__(self, *, token: str | None = None, endpoint: str | None = None) -> None:
        """`endpoint`: the URL of a hub; None: `HF_ENDPOINT`, else the library's own."""
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token or False
        self._api = HfApi(endpoint=self.endpoint, token=self._token, library_name=_AGENT)

    def plan(self, reference: Reference) -> Plan:
        """What has to be fetched for the model that is meant. Asks the hub once.

        Raises:
            DownloadError: there is no such repository, file or quant, it may not be seen, or the hub cannot be reached.
        """
        return make_plan(reference, self._repository(reference))

    @contextmanager
    def read(self, plan: Plan, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The file from byte `start` on: where it really begins (0 if the hub does not resume), and its bytes.

        Raises:
            DownloadError: it may not be had.
            httpx2.TransportError: the connection failed, here or while the bytes are read.
            HfHubHTTPError: the hub may answer better later.
        """
        repo_id = f"{plan.user}/{plan.repo}"
        url = hf_hub_url(repo_id, file.path, revision=plan.revision, endpoint=self.endpoint)
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._explaining(Reference(plan.user, plan.repo, file=file.path), passes=_RETRIED),
            get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
        ):
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            yield (
                (start if response.status_code == httpx2.codes.PARTIAL_CONTENT else 0),
                response.iter_raw(),
            )

    def _repository(self, reference: Reference) -> Repository:
        """What is there of `reference`, under the names that the hub itself uses."""
        asked = f"{reference.user}/{reference.repo}"
        with self._explaining(reference):
            info = self._api.model_info(
                asked, revision=reference.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        user, _, repo = info.id.partition("/")
        if not can_be_fetched(user, repo):
            raise DownloadError(f"{info.id!r} cannot be the name of a folder here", "not_found")
        files = (
            RemoteFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
            if is_model_file(one.rfilename)
        )
        return Repository(user, repo, info.sha or reference.revision or constants.DEFAULT_REVISION, tuple(files))

    @contextmanager
    def _explaining(self, reference: Reference, passes: tuple[int, ...] = ()) -> Iterator[None]:
        """Turn what the hub's client raises into what a person can act on."""
        page = f"{self.endpoint}/{reference.user}/{reference.repo}"
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise DownloadError("the hub is switched off by HF_HUB_OFFLINE", "unreachable", hint="unset it") from error
        except GatedRepoError as error:
            hint = f"ask for access at {page}" if self._token else f"ask for access at {page}, and set HF_TOKEN"
            raise DownloadError(
                f"{reference} is gated: this account may not fetch it", "forbidden", hint=hint
            ) from error
        except RevisionNotFoundError as error:
            raise DownloadError(f"{reference} has no revision '{reference.revision}'", "not_found") from error
        except EntryNotFoundError as error:
            raise DownloadError(f"{reference} is not there any more", "not_found", hint=f"see {page}") from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            hint = "check the name" if self._token else "check the name; if it is private, set HF_TOKEN"
            raise DownloadError(f"the hub has no {reference}, or does not show it", "not_found", hint=hint) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in passes:
                raise
            if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
                hint = f"check HF_TOKEN and what it may read, and {page}"
                raise DownloadError(f"the hub refuses {reference} ({status})", "forbidden", hint=hint) from error
            raise DownloadError(
                f"the hub answers {status} for {reference}", "unreachable", hint="try again later"
            ) from error
        except httpx2.TransportError as error:
            if passes:
                raise
            raise DownloadError(f"no answer from {self.endpoint}: {error}", "unreachable") from error
