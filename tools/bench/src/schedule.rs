//! When each record of an open loop should be sent. Pure: the time of a record is a function of its number,
//! so a load that falls behind never forgets what it owes.

/// How records arrive, all producers together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// So many a second.
    Even { rate: f64 },
    /// From one rate to another, evenly; `flat_s` seconds at the first come before, the second is kept.
    Ramp {
        from: f64,
        to: f64,
        flat_s: f64,
        ramp_s: f64,
    },
    /// So many a second, and `burst` more at the end of each period.
    Bursts {
        rate: f64,
        burst: u64,
        period_s: f64,
    },
}

impl Schedule {
    /// When record number `k`, from 0 on, should be sent, in nanoseconds from the beginning.
    pub fn time_ns(&self, k: u64) -> u64 {
        let k = k as f64;
        let seconds = match *self {
            Schedule::Even { rate } => k / rate,
            Schedule::Ramp {
                from,
                to,
                flat_s,
                ramp_s,
            } => {
                let flat = from * flat_s;
                let ramp = (from + to) / 2.0 * ramp_s;
                if k < flat {
                    k / from
                } else if k < flat + ramp {
                    // k = from t + (to - from) t² / 2 ramp_s, solved for t without a difference of two
                    // large numbers.
                    let n = k - flat;
                    let slope = (to - from) / ramp_s;
                    let root = (from * from + 2.0 * slope * n).max(0.0).sqrt();
                    let t = if n == 0.0 {
                        0.0
                    } else {
                        2.0 * n / (from + root)
                    };
                    flat_s + t
                } else {
                    flat_s + ramp_s + (k - flat - ramp) / to
                }
            }
            Schedule::Bursts {
                rate,
                burst,
                period_s,
            } => {
                let even = (rate * period_s).floor();
                let cycle = even + burst as f64;
                let (cycles, within) = ((k / cycle).floor(), k % cycle);
                if within < even {
                    (cycles + within / even) * period_s
                } else {
                    (cycles + 1.0) * period_s
                }
            }
        };
        (seconds * 1e9) as u64
    }

    /// Records that should be sent before this time.
    pub fn due_before(&self, time_ns: u64) -> u64 {
        let (mut low, mut high) = (0, 1u64 << 50);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time_ns(middle) < time_ns {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_even_rate_is_even() {
        let schedule = Schedule::Even { rate: 1000.0 };
        assert_eq!(schedule.time_ns(0), 0);
        assert_eq!(schedule.time_ns(1), 1_000_000);
        assert_eq!(schedule.due_before(3 * SECOND), 3000);
    }

    #[test]
    fn a_ramp_rises_evenly_and_stays() {
        let schedule = Schedule::Ramp {
            from: 0.0,
            to: 100.0,
            flat_s: 2.0,
            ramp_s: 10.0,
        };
        assert_eq!(schedule.due_before(2 * SECOND), 0);
        // A quarter of the records in half of the time, half of the rate's worth in all of it.
        assert_eq!(schedule.due_before(7 * SECOND), 125);
        assert_eq!(schedule.due_before(12 * SECOND), 500);
        assert_eq!(schedule.due_before(13 * SECOND), 600);
    }

    #[test]
    fn a_burst_comes_all_at_once_on_top() {
        let schedule = Schedule::Bursts {
            rate: 10.0,
            burst: 5,
            period_s: 1.0,
        };
        let times: Vec<u64> = (0..16).map(|k| schedule.time_ns(k)).collect();
        assert_eq!(times[9], 900_000_000);
        assert!(times[10..15].iter().all(|&time| time == SECOND));
        assert_eq!(times[15], SECOND);
    }
}
