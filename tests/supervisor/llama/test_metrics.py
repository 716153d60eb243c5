"""The text that workers tell Prometheus, made one."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from hugind.supervisor.llama.metrics import relabelled

TOLD = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 175
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s.
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 5021.52
"""


def _labels(name: str, index: int = 0) -> dict[str, str]:
    return {"model": name, "worker": str(index)}


def test_samples_get_labels_and_families_are_said_once() -> None:
    """Two workers tell the same: every family has one head, and both samples follow it."""
    text = relabelled([(_labels("chat"), TOLD), (_labels("chat", 1), TOLD.replace("175", "2"))])

    assert text.splitlines()[:4] == [
        "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.",
        "# TYPE llamacpp:prompt_tokens_total counter",
        'llamacpp:prompt_tokens_total{model="chat",worker="0"} 175',
        'llamacpp:prompt_tokens_total{model="chat",worker="1"} 2',
    ]
    assert text.count("# TYPE") == 2
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [175, 2] == [sample.value for sample in families["llamacpp:prompt_tokens"].samples]


def test_labels_are_kept_and_names_escaped() -> None:
    """What a sample had already stays behind ours."""
    text = relabelled([({"model": 'a"b\\c\nd'}, 'llamacpp:x{le="0.5",} NaN\nllamacpp:y +Inf\n')])

    assert text.splitlines() == [
        "# TYPE llamacpp:x untyped",
        'llamacpp:x{model="a\\"b\\\\c\\nd",le="0.5"} NaN',
        "# TYPE llamacpp:y untyped",
        'llamacpp:y{model="a\\"b\\\\c\\nd"} +Inf',
    ]


def test_what_is_not_theirs_is_left_out() -> None:
    """Other names, broken lines, heads without samples, words for numbers."""
    odd = [
        "", "#", "# TYPE hugind_requests_total counter", "hugind_requests_total 9", "llamacpp:x", "llamacpp:x y",
        "llamacpp:x 1_0", "llamacpp:x{a=b} 1", 'llamacpp:x{a="b} 1', 'llamacpp:x{a="b"}} 1', "llamacpp:x  1",
        "llamacpp: 1", "llamacpp:x 1 2 3", "# TYPE llamacpp:x histogram evil", "# HELP llamacpp:x ", " llamacpp:x 1",
        "llamacpp:é 1", "# TYPE llamacpp:alone counter", "x" * 100_000, "\x00",
    ]  # fmt: skip

    assert relabelled([(_labels("chat"), "\n".join(odd))]) == ""
    assert relabelled([]) == ""
