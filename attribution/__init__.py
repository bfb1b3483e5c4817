"""The join: events of decisions, impressions and rewards become observations, each exactly once.

The core computes and knows neither clock nor disk::

    raw records ──decode──► events ──judge──► sound events ──step(state, events, watermark)──► (state, rows)

Around it are a source (embedded log or Kafka), two Delta tables (`events`, `observations`) and a worker that moves between them.
"""

__all__: list[str] = []
