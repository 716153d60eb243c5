"""The text of `/metrics`, read as strictly as Prometheus and its linter read it."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

LABELS = {
    *(
        "model",
        "dialect",
        "route",
        "status",
        "code",
        "kind",
        "tier",
        "state",
        "worker",
        "place",
        "reason",
        "version",
        "le",
    ),
}
"""All that may be there. None says who asked."""


class Exposition:
    """Samples by name and labels. Made from a text that breaks no rule."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        _check_heads(text)
        for family in text_string_to_metric_families(text):
            if family.type == "histogram":
                _check_histogram(family.samples)
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self._samples, sample
                assert set(sample.labels) <= LABELS, sample
                self._samples[key] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Of one sample; 0 where there is none."""
        return self._samples.get((name, frozenset(labels.items())), 0)

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples with these labels among theirs."""
        wanted = set(labels.items())
        return sum(value for (found, theirs), value in self._samples.items() if found == name and wanted <= theirs)

    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _ in self._samples}

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All that may only grow."""
        endings = ("_total", "_bucket", "_count", "_sum")
        return {key: value for key, value in self._samples.items() if key[0].endswith(endings)}


def _check_heads(text: str) -> None:
    """Each family is there once, in one piece, with its help; names end in their unit, counters in `_total`."""
    assert text.endswith("\n")
    assert "\n\n" not in text
    types: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current not in types, line
            types[current] = kind
            if current.startswith("hugind_"):
                assert (kind == "counter") == current.endswith("_total"), line
                assert not re.search(r"_(ms|milliseconds|mb|kb|gb|percent)(_|$)", current), line
        elif line.startswith("# HELP "):
            assert line.split(" ", 3)[3].strip(), line
        else:
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            suffixes = ("", "_bucket", "_count", "_sum") if types[current] == "histogram" else ("",)
            assert name in {current + suffix for suffix in suffixes}, line
    helped = re.findall(r"^# HELP (\S+)", text, re.MULTILINE)
    assert len(set(helped)) == len(helped)
    assert {name for name in types if not name.startswith("llamacpp:")} <= set(helped) <= set(types)


def _check_histogram(samples: list[Sample]) -> None:
    series: dict[frozenset[tuple[str, str]], list[Sample]] = defaultdict(list)
    for sample in samples:
        series[frozenset((k, v) for k, v in sample.labels.items() if k != "le")].append(sample)
    for one in series.values():
        buckets = [sample.value for sample in one if sample.name.endswith("_bucket")]
        bounds = [float(sample.labels["le"]) for sample in one if sample.name.endswith("_bucket")]
        (count,) = [sample.value for sample in one if sample.name.endswith("_count")]
        assert all(a <= b for a, b in pairwise(buckets))
        assert all(a < b for a, b in pairwise(bounds))
        assert (bounds[-1], buckets[-1]) == (float("inf"), count)
