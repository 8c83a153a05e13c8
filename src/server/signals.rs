//! SIGTERM, SIGINT and SIGHUP: the first asks for a graceful stop, the second ends the process at once.
//!
//! The first is noticed by the control thread ([`StopSignals::next`]), which then gives the signals back
//! their default action. So a second one is carried out by the kernel, whatever our threads are stuck in,
//! and a shell sees 143 (SIGTERM) or 130 (SIGINT). Before [`StopSignals::install`] nothing is open yet and
//! the default action is right as well.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that stops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    Terminate,
    Interrupt,
    /// The terminal went away.
    Hangup,
}

impl StopSignal {
    fn number(self) -> libc::c_int {
        match self {
            StopSignal::Terminate => libc::SIGTERM,
            StopSignal::Interrupt => libc::SIGINT,
            StopSignal::Hangup => libc::SIGHUP,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopSignal::Terminate => "SIGTERM",
            StopSignal::Interrupt => "SIGINT",
            StopSignal::Hangup => "SIGHUP",
        })
    }
}

/// Waits for the signals that stop a node. One per process.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Takes the signals over. To be called within a tokio runtime that drives I/O.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The first signal to stop. When it returns, another one ends the process at once. May be dropped and
    /// called again before that.
    pub async fn next(&mut self) -> StopSignal {
        let first = tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.hangup.recv() => StopSignal::Hangup,
        };
        for signal in [
            StopSignal::Terminate,
            StopSignal::Interrupt,
            StopSignal::Hangup,
        ] {
            // SAFETY: SIG_DFL is a valid disposition for these signals and involves no code of ours. Tokio
            // never sets its handler again for a signal it has taken over once, and no other part of the
            // process handles these signals.
            unsafe { libc::signal(signal.number(), libc::SIG_DFL) };
        }
        first
    }
}
