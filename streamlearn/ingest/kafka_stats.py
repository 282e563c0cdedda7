"""librdkafka's statistics as our metrics.

Reads the few numbers that an operator asks for first; the whole document has
hundreds a partition.
"""

from __future__ import annotations

import json
from typing import Any

from streamlearn.ports import Telemetry

_MICROSECONDS = 1e6


class KafkaStatistics:
    """Turns each statistics document into metrics; made for `stats_cb`."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._received = 0

    def __call__(self, document: str) -> None:
        """Take one document; counters in it are totals since the client began."""
        statistics: dict[str, Any] = json.loads(document)
        say = self._telemetry
        received = int(statistics.get("rx_bytes", 0))
        if received > self._received:
            say.count("streamlearn_kafka_received_bytes_total", received - self._received)
            self._received = received
        connected = 0
        for broker in statistics.get("brokers", {}).values():
            # Bootstrap addresses and the coordinator's connection are no brokers of their own.
            if broker.get("nodeid", -1) < 0 or broker.get("source") == "logical":
                continue
            connected += broker.get("state") == "UP"
            if (rtt := broker.get("rtt", {})).get("cnt", 0) > 0:
                say.gauge("streamlearn_kafka_broker_rtt_seconds", rtt["avg"] / _MICROSECONDS, broker=broker["nodename"])
        say.gauge("streamlearn_kafka_connected_brokers", connected)
