//! How long batches take on their way, kept by the front itself: nobody else sees the whole of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets: 32 us, twice as long each, up to a second; one more holds the rest.
const FIRST: Duration = Duration::from_micros(32);
pub const BUCKETS: usize = 17;

/// Durations by bucket.
#[derive(Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let bucket = (0..BUCKETS - 1).find(|bucket| took <= bound(*bucket)).unwrap_or(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Upper bound of each bucket in seconds, and how many lie in it or below; then the sum of all, in seconds.
    pub fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let mut below = 0;
        let counted = self.counts.iter().enumerate().map(|(bucket, count)| {
            below += count.load(Ordering::Relaxed);
            (if bucket + 1 < BUCKETS { bound(bucket).as_secs_f64() } else { f64::INFINITY }, below)
        });
        (counted.collect(), self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

fn bound(bucket: usize) -> Duration {
    FIRST * (1 << bucket)
}

/// Of each batch: how long its first call waited, how long it took to answer, and from then until the last answer was handed to HTTP/2.
#[derive(Default)]
pub struct Stages {
    pub wait: Histogram,
    pub answer: Histogram,
    pub send: Histogram,
}
