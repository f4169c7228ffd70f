//! A limit per minute: a bucket that fills evenly and is full after a minute without use.
//!
//! Whole numbers throughout, so that the figures in the headers are exact: the level is counted in
//! parts of which a unit has 60,000, and each millisecond adds as many parts as the limit has units.

use std::time::Duration;

/// Parts of a unit; the milliseconds of a minute.
const PARTS: i64 = 60_000;

/// The largest limit, so that no product below overflows.
pub(crate) const MAX_LIMIT: u64 = 1_000_000_000_000;

/// A limit per minute and what is left of it.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Units per minute, 1 to `MAX_LIMIT`.
    limit: i64,
    /// Below zero where more was used than foreseen.
    level_parts: i64,
    filled_at: Duration,
}

/// A limit as the headers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until the bucket is full.
    pub(crate) reset: Duration,
}

impl Bucket {
    pub(crate) fn new(limit: u64, now: Duration) -> Self {
        let limit = parts_of(limit.max(1)) / PARTS;
        Self {
            limit,
            level_parts: limit * PARTS,
            filled_at: now,
        }
    }

    fn fill(&mut self, now: Duration) {
        // A clock that was set back fills nothing.
        let elapsed_ms = now.saturating_sub(self.filled_at).as_millis();
        self.filled_at = now;
        let elapsed_ms = i64::try_from(elapsed_ms).unwrap_or(i64::MAX);
        let gain = elapsed_ms.saturating_mul(self.limit);
        self.level_parts = self
            .level_parts
            .saturating_add(gain)
            .min(self.limit * PARTS);
    }

    /// Takes `n` units if they are there; else says how long until they are.
    pub(crate) fn take(&mut self, n: u64, now: Duration) -> Result<(), Duration> {
        self.fill(now);
        let wanted = parts_of(n);
        if wanted > self.level_parts {
            return Err(self.time_for(wanted - self.level_parts));
        }
        self.level_parts -= wanted;
        Ok(())
    }

    /// Takes `n` units whether or not they are there.
    pub(crate) fn take_more(&mut self, n: u64) {
        self.level_parts = self.level_parts.saturating_sub(parts_of(n));
    }

    /// Gives `n` units back.
    pub(crate) fn give(&mut self, n: u64) {
        let level = self.level_parts.saturating_add(parts_of(n));
        self.level_parts = level.min(self.limit * PARTS);
    }

    pub(crate) fn level(&mut self, now: Duration) -> Level {
        self.fill(now);
        Level {
            limit: self.limit.unsigned_abs(),
            remaining: (self.level_parts.max(0) / PARTS).unsigned_abs(),
            reset: self.time_for(self.limit * PARTS - self.level_parts),
        }
    }

    fn time_for(&self, parts: i64) -> Duration {
        Duration::from_millis(parts.unsigned_abs().div_ceil(self.limit.unsigned_abs()))
    }
}

/// Units as parts; what is over `MAX_LIMIT` counts as that.
fn parts_of(n: u64) -> i64 {
    i64::try_from(n.min(MAX_LIMIT)).unwrap_or(i64::MAX / PARTS) * PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn three_a_minute_is_one_every_twenty_seconds() {
        let mut bucket = Bucket::new(3, ms(0));
        for _ in 0..3 {
            bucket.take(1, ms(0)).unwrap();
        }
        assert_eq!(bucket.take(1, ms(0)), Err(ms(20_000)));
        assert_eq!(bucket.take(1, ms(19_999)), Err(ms(1)));
        assert_eq!(bucket.take(1, ms(20_000)), Ok(()));
        let level = bucket.level(ms(20_000));
        assert_eq!((level.remaining, level.reset), (0, ms(60_000)));
        let level = bucket.level(ms(1_000_000));
        assert_eq!((level.remaining, level.reset), (3, ms(0)));
    }

    #[test]
    fn more_than_foreseen_is_a_debt() {
        let mut bucket = Bucket::new(600, ms(0));
        bucket.take(600, ms(0)).unwrap();
        bucket.take_more(60);
        assert_eq!(bucket.level(ms(0)).remaining, 0);
        assert_eq!(bucket.take(1, ms(0)), Err(ms(6_100)));
        bucket.give(1000);
        assert_eq!(bucket.level(ms(0)).remaining, 600);
    }

    #[test]
    fn no_number_overflows() {
        let mut bucket = Bucket::new(u64::MAX, Duration::MAX);
        bucket.take_more(u64::MAX);
        bucket.take_more(u64::MAX);
        bucket.give(u64::MAX);
        assert!(bucket.take(u64::MAX, ms(0)).is_err());
        assert!(bucket.take(1, Duration::MAX).is_ok());
    }
}
