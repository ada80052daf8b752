//! Decides which environment variables are settings of this server, and which an orchestrator has set. `load` reads the
//! settings, and `cli` looks whether there are any before it chooses dev mode.

/// The prefix of every variable that is a setting.
pub(super) const PREFIX: &str = "URINGCAST_";

/// The `URINGCAST_` variables of this process, without those of an orchestrator. Bytes that are not UTF-8 are replaced, and
/// such a value is refused later.
pub fn process_env() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, value)| is_our_variable(name, value))
        .collect()
}

/// Whether a variable is a setting of this server, or a misspelt one.
///
/// Kubernetes sets variables in each pod for each Service of the namespace, and Docker for each linked container. For a
/// Service called `uringcast` or `uringcast-redis` they begin with `URINGCAST_` too. The operator did not write them, so
/// they are ignored.
pub fn is_our_variable(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX) && !is_of_a_service(name, value)
}

/// Whether Kubernetes or Docker sets a variable of this form.
///
/// Kubernetes sets `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`, `X_PORT=tcp://…`, `X_PORT_80_TCP=tcp://…`, and
/// the last one with `_PROTO`, `_PORT` or `_ADDR`. Docker sets the last two kinds, `X_NAME=/container/link` and
/// `X_ENV_NAME`. X is the name of the Service in capitals, with `_` for `-`. It does not end in `_`, so
/// `URINGCAST_HTTP__PORT` is a misspelt setting.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let name_of_a_service = |service: &str| {
        (service == "URINGCAST" || service.starts_with(PREFIX))
            && !service.ends_with('_')
            && service.bytes().all(is_name_byte)
    };
    // The name of a Service may contain such a word itself, so each occurrence is tried.
    let followed_by = |word: &str, fits: &dyn Fn(&str) -> bool| {
        let splits = name.char_indices().map(|(at, _)| name.split_at(at));
        let mut rests = splits.filter_map(|(service, rest)| Some((service, rest.strip_prefix(word)?)));
        rests.any(|(service, rest)| name_of_a_service(service) && fits(rest))
    };
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    followed_by("_SERVICE_HOST", &str::is_empty)
        || followed_by("_SERVICE_PORT", &|rest| rest.is_empty() || is_suffix(rest))
        // An operator who writes `URINGCAST_PORT=8080` expects an effect, so only addresses are ignored.
        || followed_by("_PORT", &|rest| rest.is_empty() && is_address)
        || followed_by("_PORT_", &is_port_of_a_service)
        || followed_by("_NAME", &|rest| rest.is_empty() && value.starts_with('/'))
        || followed_by("_ENV_", &|rest| !rest.is_empty())
}

/// Whether `rest` is like `80_TCP` or `80_TCP_ADDR`.
fn is_port_of_a_service(rest: &str) -> bool {
    let mut words = rest.split('_');
    let is_port = words.next().is_some_and(|port| port.parse::<u16>().is_ok());
    is_port
        && words.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
        && words.next().is_none_or(|what| ["PROTO", "PORT", "ADDR"].contains(&what))
        && words.next().is_none()
}

fn is_suffix(rest: &str) -> bool {
    rest.len() > 1 && rest.starts_with('_') && rest.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The variables that the kubelet sets for one Service (its `makeEnvironmentVariables`), written independently.
    fn of_kubernetes(service: &str, host: &str, ports: &[(&str, u16, &str)]) -> Vec<(String, String)> {
        let prefix = service.to_uppercase().replace('-', "_");
        let url = |protocol: &str, port: u16| match host.contains(':') {
            true => format!("{}://[{host}]:{port}", protocol.to_lowercase()),
            false => format!("{}://{host}:{port}", protocol.to_lowercase()),
        };
        let (_, first_port, first_protocol) = ports[0];
        let mut variables = vec![
            (format!("{prefix}_SERVICE_HOST"), host.to_owned()),
            (format!("{prefix}_SERVICE_PORT"), first_port.to_string()),
            (format!("{prefix}_PORT"), url(first_protocol, first_port)),
        ];
        for (name, port, protocol) in ports {
            let (name, base) = (name.to_uppercase().replace('-', "_"), format!("{prefix}_PORT_{port}_{protocol}"));
            if !name.is_empty() {
                variables.push((format!("{prefix}_SERVICE_PORT_{name}"), port.to_string()));
            }
            variables.push((format!("{base}_PROTO"), protocol.to_lowercase()));
            variables.push((format!("{base}_PORT"), port.to_string()));
            variables.push((format!("{base}_ADDR"), host.to_owned()));
            variables.push((base, url(protocol, *port)));
        }
        variables
    }

    #[test]
    fn the_variables_of_every_service_are_passed_over() {
        let ports = [("http", 80, "TCP"), ("web-socket", 2345, "TCP"), ("", 53, "UDP"), ("s", 65535, "SCTP")];
        for service in [
            "uringcast",
            "uringcast-api",
            "uringcast-http",
            "uringcast-port",
            "uringcast-service-port",
            "uringcast-port-80-tcp",
            "uringcast--x",
            "uringcast-2",
        ] {
            for host in ["10.0.0.9", "fd00::9"] {
                for (name, value) in of_kubernetes(service, host, &ports) {
                    assert!(!is_our_variable(&name, &value), "{name}={value}");
                }
            }
        }
        for (name, value) in [
            ("URINGCAST_NAME", "/web/uringcast"),
            ("URINGCAST_1_NAME", "/web/uringcast_1"),
            ("URINGCAST_ENV_PATH", "/bin"),
            ("URINGCAST_1_ENV_Rust_Log", "info"),
            ("URINGCAST_1_PORT", "tcp://172.17.0.5:2345"),
        ] {
            assert!(!is_our_variable(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_somebody_wrote_is_ours() {
        for (name, value) in [
            ("URINGCAST_LISTEN", "127.0.0.1:1"),
            ("URINGCAST_PORT", "8080"),
            ("URINGCAST_HTTP_PORT", "2346"),
            ("URINGCAST_PORTS", "tcp://1.2.3.4:5"),
            ("URINGCAST_HTTP__PORT", "tcp://1.2.3.4:5"),
            ("URINGCAST_HTTP__SERVICE_PORT", "1"),
            ("URINGCAST_SERVICE_HOSTS", "10.0.0.1"),
            ("URINGCAST_SERVICE_PORT_", "1"),
            ("URINGCAST_PORT_80", "80"),
            ("URINGCAST_PORT_80_ICMP", "icmp://1.2.3.4"),
            ("URINGCAST_PORT_80_TCP_HOST", "1.2.3.4"),
            ("URINGCAST_PORT_80_TCP_ADDR_X", "1.2.3.4"),
            ("URINGCAST_PORT_99999_TCP", "tcp://1.2.3.4:99999"),
            ("URINGCAST_api_SERVICE_HOST", "10.0.0.1"),
            ("URINGCAST_NAME", "Alice"),
            ("URINGCAST_ENV", "production"),
            ("URINGCAST_ENV_", "x"),
        ] {
            assert!(is_our_variable(name, value), "{name}={value}");
        }
        assert!(!is_our_variable("URINGCASTER_PORT", "1") && !is_our_variable("URINGCAST", "1"));
    }

    proptest! {
        #[test]
        fn any_service_is_passed_over(
            rest in "(-[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?)?",
            name in "[a-z]([-a-z0-9]{0,6}[a-z0-9])?",
            port in 1u16..,
            protocol in prop::sample::select(vec!["TCP", "UDP", "SCTP"]),
        ) {
            for (name, value) in of_kubernetes(&format!("uringcast{rest}"), "10.1.2.3", &[(&name, port, protocol)]) {
                prop_assert!(!is_our_variable(&name, &value), "{name}={value}");
            }
        }
    }
}
