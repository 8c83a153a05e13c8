//! A clock that is cheap enough to look at many times a request.
//!
//! `Instant::now` takes 27 ns on the machine this was chosen on, the processor's time stamp counter 11. The
//! counter is used where the kernel itself keeps time by it (its clock source is `tsc`): then it runs at
//! one rate, through every sleep state, and is the same on all cores. Elsewhere `Instant` is.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::base::profile::Nanos;

/// How long the counter's rate is measured, once a process: to a few parts in ten thousand.
const CALIBRATE: Duration = Duration::from_micros(300);

/// Where the kernel names its clock source.
const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// The time now. Never 0.
#[inline]
pub fn now() -> Nanos {
    CLOCK.get_or_init(Clock::new).now()
}

static CLOCK: OnceLock<Clock> = OnceLock::new();

enum Clock {
    Counter {
        origin: u64,
        /// Nanoseconds of 2^32 ticks.
        nanos_per_tick_32: u64,
    },
    Instant(Instant),
}

impl Clock {
    fn new() -> Clock {
        let by_counter = std::fs::read_to_string(SOURCE).is_ok_and(|name| name.trim() == "tsc");
        by_counter
            .then(Clock::calibrate)
            .flatten()
            .unwrap_or_else(|| Clock::Instant(Instant::now()))
    }

    fn calibrate() -> Option<Clock> {
        let (first_tick, first) = both()?;
        while first.elapsed() < CALIBRATE {}
        let (last_tick, last) = both()?;
        let nanos = last.duration_since(first).as_nanos();
        let ticks = u128::from(last_tick.checked_sub(first_tick)?);
        let rate = (nanos << 32).checked_div(ticks)?;
        Some(Clock::Counter {
            origin: first_tick,
            nanos_per_tick_32: u64::try_from(rate).ok()?,
        })
    }

    #[inline]
    fn now(&self) -> Nanos {
        match self {
            Clock::Counter {
                origin,
                nanos_per_tick_32,
            } => {
                let ticks = counter().unwrap_or(0).saturating_sub(*origin);
                let nanos = (u128::from(ticks) * u128::from(*nanos_per_tick_32)) >> 32;
                Nanos(nanos as u64 + 1)
            }
            Clock::Instant(origin) => Nanos(origin.elapsed().as_nanos() as u64 + 1),
        }
    }
}

/// Counter and time at one moment: of several tries the one that took the least.
fn both() -> Option<(u64, Instant)> {
    let tries = (0..16).filter_map(|_| {
        let before = counter()?;
        let time = Instant::now();
        let after = counter()?;
        Some((after.checked_sub(before)?, before, time))
    });
    let (took, before, time) = tries.min_by_key(|(took, ..)| *took)?;
    Some((before + took / 2, time))
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction; it reads a counter and nothing else.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_at_the_rate_of_the_machines_own_clock() {
        let (time, nanos) = (Instant::now(), now());
        assert!(nanos.0 > 0);
        while time.elapsed() < Duration::from_millis(20) {}
        let (ours, theirs) = (now().since(nanos), time.elapsed().as_nanos() as u64);
        // The two are not read at one moment, and the thread may lose its core in between.
        let within = theirs / 50 + 5_000_000;
        assert!(ours.abs_diff(theirs) < within, "{ours} {theirs}");
    }
}
