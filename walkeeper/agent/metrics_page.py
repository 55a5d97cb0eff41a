"""``/metrics`` in Prometheus' text format; imported only where the HTTP port is on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from walkeeper.agent.http_answer import Answer, Question
from walkeeper.agent.measure import Value, measure
from walkeeper.agent.observer import Observer
from walkeeper.core.histogram import HistogramCounts
from walkeeper.metrics import Metric
from walkeeper.storage.observe import StorageCounters

_INFINITE: Final = "+Inf"


class MetricsPage:
    """Answers a scrape with what is known at that moment; asks neither store nor server."""

    def __init__(self, observer: Observer, counters: StorageCounters) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(_AtScrape(lambda: measure(observer, counters, datetime.now(UTC))))

    async def __call__(self, _: Question) -> Answer:
        """The page."""
        return Answer(generate_latest(self._registry), CONTENT_TYPE_LATEST)


class _AtScrape(Collector):
    def __init__(self, measured: Callable[[], Iterable[Value]]) -> None:
        self._measured = measured

    def describe(self) -> Iterable[Family]:
        return ()  # a registry that is ours alone has no names to check

    def collect(self) -> Iterator[Family]:
        values = sorted(self._measured(), key=lambda value: value[0].name)
        for _, same in groupby(values, key=lambda value: value[0].name):
            yield _family(list(same))


def _family(values: list[Value]) -> Family:
    metric = values[0][0]
    if metric.kind == "histogram":
        return _histogram(metric, values)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.about, labels=metric.labels)
    for _, labels, value in values:
        assert not isinstance(value, HistogramCounts)
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, values: list[Value]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
    for _, labels, value in values:
        assert isinstance(value, HistogramCounts)
        bounds = (*(repr(bound) for bound in value.bounds), _INFINITE)
        buckets = list(zip(bounds, value.cumulative, strict=True))
        family.add_metric(labels, buckets, value.total)
    return family
