"""Old spellings, and what the table parser refuses."""

from __future__ import annotations

import pytest
import xllamacpp

from hugind.supervisor.llama.embedded_flags import FlagError, describe, modernise, parse


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--mlock", "--load-mode mmap+mlock"),
        ("--no-mmap", "--load-mode none"),
        ("--mlock --no-mmap", "--load-mode mlock"),
        ("--mmap", ""),
        ("-dio", "--load-mode dio"),
        ("-fa", "-fa on"),
        ("-fa -c 5", "-fa on -c 5"),
        ("--flash-attn --slots", "--flash-attn on --slots"),
        ("--flash-attn off", "--flash-attn off"),
        ("--draft-max 8 --draft-min 2", "--spec-draft-n-max 8 --spec-draft-n-min 2"),
        ("--draft 8", "--spec-draft-n-max 8"),
        ("--load-mode mmap -c 5", "--load-mode mmap -c 5"),
    ],
)
def test_modernise(old: str, new: str) -> None:
    """A spelling that llama.cpp has dropped becomes the current one; the rest stays as it is."""
    assert new.split() == modernise(old.split())


def test_arguments_win() -> None:
    """A flag overrides its environment variable."""
    params = xllamacpp.CommonParams()
    parse(params, ["-c", "5"], {"LLAMA_ARG_CTX_SIZE": "7", "LLAMA_ARG_BATCH": "9"})

    assert (params.n_ctx, params.n_batch) == (5, 9)


def test_threads_default() -> None:
    """Threads that nobody chose are chosen here, and the batch's follow."""
    params = xllamacpp.CommonParams()
    parse(params, [], {})

    assert 1 <= params.cpuparams.n_threads == params.cpuparams_batch.n_threads


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nope", "error: invalid argument: --nope"),
        ("--override-kv a=int:1", "error: invalid argument: --override-kv"),
        ("-c", 'error while handling argument "-c": expected value for argument'),
        ("--lora-scaled a", 'error while handling argument "--lora-scaled": lora-scaled format: FNAME:SCALE'),
        ("--chat-template-kwargs []", 'error while handling argument "--chat-template-kwargs": not a JSON object'),
    ],
)
def test_refused(line: str, message: str) -> None:
    """What cannot be done is refused in llama-server's words."""
    with pytest.raises(FlagError) as caught:
        parse(xllamacpp.CommonParams(), line.split(), {})

    assert message == str(caught.value)


def test_help_names_every_flag() -> None:
    """Every line of the help begins with a flag."""
    assert all(line.startswith("-") for line in describe().splitlines())
