//! Where a node listens, and what it tells clients about that.

use std::fmt;
use std::net::IpAddr;

use super::settings::SettingError;

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

impl HostPort {
    /// Reads `host:port`, `[ipv6]:port` or `:port`.
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let is_host =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '%' | ':');
        if !host.chars().all(is_host) || !port.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(HostPort {
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }

    /// "Every interface": not an address that a client could connect to.
    fn is_any(&self) -> bool {
        self.host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
    }
}

/// The settings that decide where a node listens, as texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerTexts<'a> {
    pub process_roles: &'a str,
    pub listeners: &'a str,
    pub advertised_listeners: Option<&'a str>,
    pub listener_security_protocol_map: &'a str,
    /// Whether somebody wrote that map; the default one takes the controller's listeners along.
    pub map_is_explicit: bool,
    pub inter_broker_listener_name: Option<&'a str>,
    pub security_inter_broker_protocol: &'a str,
    pub security_inter_broker_protocol_is_explicit: bool,
    pub controller_listener_names: &'a str,
    /// What clients are told where a listener has no host of its own.
    pub host_name: &'a str,
}

/// The name of this machine, as the kernel knows it. Asks no name server.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Checks the settings against each other, by Kafka's rules for a combined broker and controller, and gives
/// the listeners that are to be opened and the name of the brokers' own.
///
/// Controller listeners are checked for their ports and then left out: a quorum of one talks to nobody.
pub(crate) fn resolve(texts: &ListenerTexts<'_>) -> Result<(Vec<Listener>, String), SettingError> {
    check_roles(texts.process_roles)?;
    let controllers: Vec<String> = items(texts.controller_listener_names)
        .map(str::to_uppercase)
        .collect();
    let map = protocol_map(texts, &controllers)?;
    let bound = end_points("listeners", texts.listeners)?;
    check_names("listeners", texts.listeners, &bound)?;
    check_ports(texts.listeners, &bound)?;
    let advertised = match texts.advertised_listeners {
        Some(text) => {
            let advertised = end_points("advertised.listeners", text)?;
            check_names("advertised.listeners", text, &advertised)?;
            Some(advertised)
        }
        None => None,
    };

    let for_clients: Vec<&EndPoint> = bound
        .iter()
        .filter(|point| !controllers.contains(&point.name))
        .collect();
    let names = |points: &[&EndPoint]| {
        let names: Vec<_> = points.iter().map(|point| point.name.clone()).collect();
        names.join(",")
    };
    let mut told: Vec<&EndPoint> = match &advertised {
        Some(advertised) => advertised.iter().collect(),
        None => bound.iter().collect(),
    };
    told.retain(|point| !controllers.contains(&point.name));
    if told.is_empty() {
        return Err(SettingError::Conflict(
            "There must be at least one broker advertised listener. Perhaps all listeners appear in \
             controller.listener.names?"
                .into(),
        ));
    }
    if told
        .iter()
        .any(|point| !for_clients.iter().any(|bound| bound.name == point.name))
    {
        return Err(SettingError::Conflict(format!(
            "advertised.listeners listener names must be equal to or a subset of the ones defined in listeners. \
             Found {}. The valid options based on the current configuration are {}",
            names(&told),
            names(&for_clients)
        )));
    }
    if let Some(point) = told.iter().find(|point| point.address.is_any()) {
        return Err(SettingError::Conflict(format!(
            "advertised.listeners cannot use the nonroutable meta-address {}. Use a routable IP address: set \
             advertised.listeners={}://<an address that clients can reach>:{}",
            point.address.host, point.name, point.address.port
        )));
    }

    let mut listeners = Vec::new();
    for point in &for_clients {
        let protocol = protocol_of(&point.name, &map)?;
        let advertised = told
            .iter()
            .find(|told| told.name == point.name)
            .map(|told| HostPort {
                host: match told.address.host.as_str() {
                    "" => texts.host_name.to_owned(),
                    host => host.to_owned(),
                },
                port: told.address.port,
            });
        listeners.push(Listener {
            name: point.name.clone(),
            protocol,
            bind: point.address.clone(),
            advertised,
        });
    }
    let inter_broker = inter_broker_name(texts)?;
    if !told.iter().any(|point| point.name == inter_broker) {
        return Err(SettingError::Conflict(format!(
            "inter.broker.listener.name must be a listener name defined in advertised.listeners: {inter_broker} is \
             not. The valid options based on currently configured listeners are {}",
            names(&told)
        )));
    }
    Ok((listeners, inter_broker))
}

/// The value for `listeners` that belongs to an `advertised.listeners` alone: the same names and ports on every
/// IPv4 interface, as Kafka's container image has it. `None` if it cannot be read.
pub(crate) fn listeners_behind(advertised: &str) -> Option<String> {
    let points = end_points("advertised.listeners", advertised).ok()?;
    let texts: Vec<_> = points
        .iter()
        .map(|point| format!("{}://0.0.0.0:{}", point.name, point.address.port))
        .collect();
    Some(texts.join(","))
}

struct EndPoint {
    name: String,
    address: HostPort,
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn check_roles(text: &str) -> Result<(), SettingError> {
    let has = |role| items(text).any(|item| item == role);
    match (has("broker"), has("controller")) {
        (true, true) => Ok(()),
        (true, false) => Err(SettingError::invalid(
            "process.roles",
            text,
            "a broker whose controller runs elsewhere is not supported yet; use process.roles=broker,controller",
        )),
        (false, _) => Err(SettingError::invalid(
            "process.roles",
            text,
            "a controller without a broker is not supported yet; use process.roles=broker,controller",
        )),
    }
}

fn end_points(setting: &str, text: &str) -> Result<Vec<EndPoint>, SettingError> {
    let mut points = Vec::new();
    for item in items(text) {
        let parsed = item
            .split_once("://")
            .and_then(|(name, address)| Some((name, HostPort::parse(address)?)));
        let Some((name, address)) = parsed else {
            return Err(SettingError::invalid(
                setting,
                item,
                "a listener is NAME://host:port, with port 0 to 65535 and IPv6 addresses in brackets",
            ));
        };
        points.push(EndPoint {
            name: name.to_uppercase(),
            address,
        });
    }
    Ok(points)
}

fn check_names(setting: &str, text: &str, points: &[EndPoint]) -> Result<(), SettingError> {
    for (at, point) in points.iter().enumerate() {
        if points[..at]
            .iter()
            .any(|earlier| earlier.name == point.name)
        {
            return Err(SettingError::invalid(
                setting,
                text,
                format!(
                    "Each listener must have a different name, but {} comes twice",
                    point.name
                ),
            ));
        }
    }
    Ok(())
}

/// A port may come twice only when one address is IPv4 and the other IPv6; port 0 any number of times.
fn check_ports(text: &str, points: &[EndPoint]) -> Result<(), SettingError> {
    for (at, point) in points.iter().enumerate() {
        let port = point.address.port;
        let twins: Vec<_> = points[..at]
            .iter()
            .filter(|earlier| earlier.address.port == port)
            .collect();
        let ip = |point: &EndPoint| point.address.host.parse::<IpAddr>().ok();
        let is_pair = match twins.as_slice() {
            [] => true,
            [one] => match (ip(one), ip(point)) {
                (Some(a), Some(b)) => a.is_ipv4() != b.is_ipv4(),
                _ => false,
            },
            _ => false,
        };
        if port != 0 && !is_pair {
            return Err(SettingError::invalid(
                "listeners",
                text,
                format!(
                    "Each listener must have a different port unless exactly one listener has an IPv4 address and \
                     the other IPv6 address, but port {port} comes twice"
                ),
            ));
        }
    }
    Ok(())
}

fn protocol_map(
    texts: &ListenerTexts<'_>,
    controllers: &[String],
) -> Result<Vec<(String, String)>, SettingError> {
    let setting = "listener.security.protocol.map";
    let text = texts.listener_security_protocol_map;
    let mut map = Vec::new();
    for item in items(text) {
        let Some((name, protocol)) = item.rsplit_once(':') else {
            return Err(SettingError::invalid(
                setting,
                text,
                format!("{item} is not NAME:PROTOCOL"),
            ));
        };
        let protocol = protocol.trim().to_uppercase();
        if !PROTOCOLS.contains(&protocol.as_str()) {
            return Err(SettingError::invalid(
                setting,
                text,
                format!("{protocol} is not one of {}", PROTOCOLS.join(", ")),
            ));
        }
        map.push((name.trim().to_uppercase(), protocol));
    }
    if !texts.map_is_explicit {
        for name in controllers {
            if !map.iter().any(|(known, _)| known == name) {
                map.push((name.clone(), "PLAINTEXT".to_owned()));
            }
        }
    }
    Ok(map)
}

const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

fn protocol_of(name: &str, map: &[(String, String)]) -> Result<SecurityProtocol, SettingError> {
    match map.iter().find(|(known, _)| known == name) {
        Some((_, protocol)) if protocol == "PLAINTEXT" => Ok(SecurityProtocol::Plaintext),
        Some((_, protocol)) => Err(SettingError::Conflict(format!(
            "listener {name} uses {protocol}, which is not supported yet: only PLAINTEXT is"
        ))),
        None => Err(SettingError::Conflict(format!(
            "No security protocol defined for listener {name}: add {name}:PLAINTEXT to listener.security.protocol.map"
        ))),
    }
}

fn inter_broker_name(texts: &ListenerTexts<'_>) -> Result<String, SettingError> {
    match texts.inter_broker_listener_name {
        Some(_) if texts.security_inter_broker_protocol_is_explicit => Err(SettingError::Conflict(
            "Only one of inter.broker.listener.name and security.inter.broker.protocol should be set.".into(),
        )),
        Some(name) => Ok(name.to_uppercase()),
        None => Ok(texts.security_inter_broker_protocol.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_MAP: &str =
        "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT";

    fn texts<'a>(listeners: &'a str, advertised: Option<&'a str>) -> ListenerTexts<'a> {
        ListenerTexts {
            process_roles: "broker,controller",
            listeners,
            advertised_listeners: advertised,
            listener_security_protocol_map: DEFAULT_MAP,
            map_is_explicit: false,
            inter_broker_listener_name: None,
            security_inter_broker_protocol: "PLAINTEXT",
            security_inter_broker_protocol_is_explicit: false,
            controller_listener_names: "CONTROLLER",
            host_name: "machine",
        }
    }

    fn shown(listeners: &[Listener]) -> Vec<String> {
        let show = |listener: &Listener| {
            let advertised = listener.advertised.as_ref().map(HostPort::to_string);
            format!(
                "{} {} -> {}",
                listener.name,
                listener.bind,
                advertised.unwrap_or("-".into())
            )
        };
        listeners.iter().map(show).collect()
    }

    fn accepted(texts: &ListenerTexts<'_>) -> Vec<String> {
        shown(&resolve(texts).unwrap().0)
    }

    fn refused(texts: &ListenerTexts<'_>) -> String {
        resolve(texts).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_host_binds_everything_and_advertises_the_machines_name() {
        assert_eq!(
            accepted(&texts("PLAINTEXT://:9092", None)),
            ["PLAINTEXT :9092 -> machine:9092"]
        );
        assert_eq!(
            accepted(&texts("PLAINTEXT://:9092", Some("PLAINTEXT://:19092"))),
            ["PLAINTEXT :9092 -> machine:19092"]
        );
    }

    #[test]
    fn controller_listeners_are_neither_opened_nor_advertised() {
        assert_eq!(
            accepted(&texts(
                "PLAINTEXT://:9092,CONTROLLER://:9093",
                Some("PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093")
            )),
            ["PLAINTEXT :9092 -> localhost:9092"]
        );
        assert!(
            refused(&texts("CONTROLLER://:9093", None))
                .starts_with("There must be at least one broker")
        );
    }

    #[test]
    fn the_meta_address_cannot_be_advertised() {
        for host in ["0.0.0.0", "[::]"] {
            let listeners = format!("PLAINTEXT://{host}:9092");
            assert!(refused(&texts(&listeners, None)).contains("nonroutable meta-address"));
        }
        assert_eq!(
            accepted(&texts(
                "PLAINTEXT://0.0.0.0:9092",
                Some("PLAINTEXT://broker:9092")
            )),
            ["PLAINTEXT 0.0.0.0:9092 -> broker:9092"]
        );
        // The controller's may be anything: it is not advertised.
        assert_eq!(
            accepted(&texts("PLAINTEXT://h:9092,CONTROLLER://0.0.0.0:9093", None)),
            ["PLAINTEXT h:9092 -> h:9092"]
        );
    }

    #[test]
    fn listeners_have_addresses_of_their_own() {
        let mut inner_and_outer = texts(
            "INTERNAL://0.0.0.0:29092,EXTERNAL://0.0.0.0:9092",
            Some("INTERNAL://kafka:29092,EXTERNAL://localhost:9092"),
        );
        inner_and_outer.listener_security_protocol_map = "INTERNAL:PLAINTEXT, EXTERNAL:PLAINTEXT";
        inner_and_outer.map_is_explicit = true;
        inner_and_outer.inter_broker_listener_name = Some("internal");
        let (listeners, inter_broker) = resolve(&inner_and_outer).unwrap();
        assert_eq!(
            shown(&listeners),
            [
                "INTERNAL 0.0.0.0:29092 -> kafka:29092",
                "EXTERNAL 0.0.0.0:9092 -> localhost:9092"
            ]
        );
        assert_eq!(inter_broker, "INTERNAL");
        inner_and_outer.inter_broker_listener_name = None;
        assert!(
            refused(&inner_and_outer)
                .contains("inter.broker.listener.name must be a listener name")
        );
    }

    #[test]
    fn a_listener_left_out_of_the_advertised_ones_is_open_and_untold() {
        let mut two = texts("PLAINTEXT://:1,INNER://:2", Some("PLAINTEXT://a:1"));
        two.listener_security_protocol_map = "PLAINTEXT:PLAINTEXT,INNER:PLAINTEXT";
        assert_eq!(accepted(&two), ["PLAINTEXT :1 -> a:1", "INNER :2 -> -"]);
        let unknown = texts("PLAINTEXT://:1", Some("PLAINTEXT://a:1,OTHER://b:2"));
        assert!(refused(&unknown).contains("must be equal to or a subset"));
    }

    #[test]
    fn names_are_unique() {
        let twice = texts("PLAINTEXT://a:1,plaintext://b:2", None);
        assert!(refused(&twice).contains("PLAINTEXT comes twice"));
    }

    #[test]
    fn ports_are_unique_unless_zero_or_a_pair_of_ipv4_and_ipv6() {
        let mut map = texts("", None);
        map.listener_security_protocol_map = "PLAINTEXT:PLAINTEXT,B:PLAINTEXT,C:PLAINTEXT";
        let with = |listeners| ListenerTexts { listeners, ..map };
        assert!(refused(&with("PLAINTEXT://a:1,B://b:1")).contains("port 1 comes twice"));
        assert!(
            refused(&with("PLAINTEXT://127.0.0.1:1,B://127.0.0.2:1"))
                .contains("port 1 comes twice")
        );
        assert!(refused(&with("PLAINTEXT://:1,CONTROLLER://:1")).contains("port 1 comes twice"));
        assert!(
            refused(&with("PLAINTEXT://127.0.0.1:1,B://[::1]:1,C://127.0.0.3:1"))
                .contains("port 1 comes twice")
        );
        accepted(&with("PLAINTEXT://a:0,B://b:0,C://c:0"));
        assert_eq!(
            accepted(&with("PLAINTEXT://127.0.0.1:1,B://[::1]:1")),
            [
                "PLAINTEXT 127.0.0.1:1 -> 127.0.0.1:1",
                "B [::1]:1 -> [::1]:1"
            ]
        );
    }

    #[test]
    fn only_plaintext_is_supported_yet() {
        let error = refused(&texts("PLAINTEXT://a:1,SSL://a:2", None));
        assert_eq!(
            error,
            "listener SSL uses SSL, which is not supported yet: only PLAINTEXT is"
        );
        assert!(refused(&texts("MINE://a:1", None)).starts_with("No security protocol defined"));
        let mut odd = texts("PLAINTEXT://a:1", None);
        odd.listener_security_protocol_map = "PLAINTEXT:PLAIN";
        assert!(refused(&odd).contains("PLAIN is not one of"));
    }

    #[test]
    fn one_process_is_broker_and_controller() {
        let mut roles = texts("PLAINTEXT://a:1", None);
        roles.process_roles = "broker";
        assert!(refused(&roles).contains("a broker whose controller runs elsewhere"));
        roles.process_roles = "controller";
        assert!(refused(&roles).contains("a controller without a broker"));
        roles.process_roles = "controller, broker";
        accepted(&roles);
    }

    #[test]
    fn the_brokers_listener_is_named_once() {
        let mut both = texts("PLAINTEXT://a:1", None);
        both.inter_broker_listener_name = Some("PLAINTEXT");
        accepted(&both);
        both.security_inter_broker_protocol_is_explicit = true;
        assert!(refused(&both).starts_with("Only one of"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "9092",
            "PLAINTEXT://host",
            "PLAINTEXT://host:70000",
            "PLAINTEXT://host:-1",
            "PLAINTEXT://::1:9092",
            "PLAINTEXT://[::1:9",
            "PLAINTEXT://a b:1",
            "PLAINTEXT://host:+1",
        ] {
            assert!(
                refused(&texts(bad, None)).contains("a listener is NAME://host:port"),
                "{bad}"
            );
        }
    }

    #[test]
    fn listeners_follow_from_advertised_ones_as_in_the_container_image() {
        assert_eq!(
            listeners_behind("PLAINTEXT://kafka:29092,HOST://localhost:9092").unwrap(),
            "PLAINTEXT://0.0.0.0:29092,HOST://0.0.0.0:9092"
        );
    }
}
