//! Where a node listens, and what it tells clients about that.

use std::fmt;

/// How bytes travel on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityProtocol {
    Plaintext,
}

/// A host and a port. An empty host is "every interface".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A name or an address; IPv6 without its brackets.
    pub host: String,
    /// 0 asks the kernel for a free one.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One listener for clients and brokers. Controller listeners are not among them: one node opens none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Kafka's listener name, in capitals: `PLAINTEXT`, `EXTERNAL`, ….
    pub name: String,
    pub protocol: SecurityProtocol,
    /// What to bind. An empty host is every interface, IPv6 and IPv4.
    pub bind: HostPort,
    /// What clients that came through this listener are told. Port 0 here stands for the port that was
    /// bound. `None`: the listener is open but not advertised, because `advertised.listeners` leaves it out.
    pub advertised: Option<HostPort>,
}
