//! A bound on log lines that a peer can provoke.
//!
//! Whatever a client does wrong is worth a line, and a million of them are an attack on the disk that
//! holds the logs and on the shard that writes them. One [`LogLimit`] stands before each kind of line.

use std::cell::Cell;

use super::Timestamp;

/// Lets `burst` lines pass at once and one more each `interval_ms`, and counts what it held back.
///
/// One per shard and kind of line. Time is an argument; any clock in milliseconds will do, and one
/// that steps back only delays the next line.
pub struct LogLimit {
    burst: u32,
    interval_ms: i64,
    tokens: Cell<u32>,
    refilled: Cell<Timestamp>,
    suppressed: Cell<u64>,
}

impl LogLimit {
    /// Panics if `burst` or `interval_ms` is 0.
    pub const fn new(burst: u32, interval_ms: u32) -> Self {
        assert!(burst > 0 && interval_ms > 0);
        Self {
            burst,
            interval_ms: interval_ms as i64,
            tokens: Cell::new(burst),
            refilled: Cell::new(Timestamp(i64::MIN)),
            suppressed: Cell::new(0),
        }
    }

    /// Whether a line may be written now. `Some(n)`: yes, and `n` lines like it were held back since
    /// the last one (say so when it is not 0). `None`: no.
    pub fn admit(&self, now: Timestamp) -> Option<u64> {
        let elapsed_ms = now.0.saturating_sub(self.refilled.get().0);
        let earned = elapsed_ms / self.interval_ms;
        if earned > 0 {
            let tokens = i64::from(self.tokens.get()).saturating_add(earned);
            let full = tokens >= i64::from(self.burst);
            self.tokens
                .set(if full { self.burst } else { tokens as u32 });
            self.refilled.set(if full {
                now
            } else {
                Timestamp(
                    self.refilled
                        .get()
                        .0
                        .saturating_add(earned * self.interval_ms),
                )
            });
        }
        if self.tokens.get() == 0 {
            self.suppressed.set(self.suppressed.get().saturating_add(1));
            return None;
        }
        self.tokens.set(self.tokens.get() - 1);
        Some(self.suppressed.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_one_line_each_interval_says_how_many_were_held_back() {
        let limit = LogLimit::new(2, 1_000);
        let at = |ms| limit.admit(Timestamp(ms));
        assert_eq!(at(5), Some(0));
        assert_eq!(at(5), Some(0));
        assert_eq!(at(5), None);
        assert_eq!(at(1_004), None);
        assert_eq!(at(1_005), Some(2));
        assert_eq!(at(1_006), None);
        assert_eq!(at(60_000), Some(1));
        assert_eq!(at(60_000), Some(0));
        assert_eq!(at(60_000), None);
    }

    #[test]
    fn a_clock_that_steps_back_neither_panics_nor_floods() {
        let limit = LogLimit::new(1, 10);
        assert_eq!(limit.admit(Timestamp(100)), Some(0));
        assert_eq!(limit.admit(Timestamp(i64::MIN)), None);
        assert_eq!(limit.admit(Timestamp(i64::MAX)), Some(1));
    }
}
