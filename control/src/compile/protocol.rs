//! The protocol of a Service port, from `appProtocol` or the port's name.

use aquifer_core::service::AppProtocol;

/// Servers on these ports speak first; looking for HTTP there would only wait.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// The protocol, as Istio selects it: `appProtocol`, then the part of the name before the first `-`.
pub fn detect(name: &str, app_protocol: &str, port: u16) -> AppProtocol {
    let by_app = by_app_protocol(app_protocol);
    let found = by_app.or_else(|| by_name(name));
    match found {
        Some(protocol) => protocol,
        None if SERVER_FIRST.contains(&port) => AppProtocol::Tcp,
        None => AppProtocol::Unknown,
    }
}

fn by_app_protocol(text: &str) -> Option<AppProtocol> {
    match text {
        "" => None,
        "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "kubernetes.io/ws" => Some(AppProtocol::Http11),
        "kubernetes.io/wss" => Some(AppProtocol::Tls),
        other => by_name(other),
    }
}

fn by_name(name: &str) -> Option<AppProtocol> {
    let name = name.to_ascii_lowercase();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some(AppProtocol::Http11);
    }
    match name.split('-').next().unwrap_or_default() {
        "http" | "http_proxy" => Some(AppProtocol::Http11),
        "http2" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "https" | "tls" => Some(AppProtocol::Tls),
        "tcp" | "mongo" | "redis" | "mysql" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_istio_does() {
        let check = |name: &str, app: &str, port: u16, want: AppProtocol| {
            assert_eq!(detect(name, app, port), want, "{name:?} {app:?} {port}");
        };
        check("http", "", 9080, AppProtocol::Http11);
        check("http-web", "", 80, AppProtocol::Http11);
        check("HTTP", "", 80, AppProtocol::Http11);
        check("grpc-web", "", 80, AppProtocol::Http11);
        check("grpc-api", "", 80, AppProtocol::Grpc);
        check("mongo", "", 27017, AppProtocol::Tcp);
        check("web", "", 80, AppProtocol::Unknown);
        check("db", "", 3306, AppProtocol::Tcp);
        check("tcp", "http", 80, AppProtocol::Http11);
        check("http", "kubernetes.io/h2c", 80, AppProtocol::Http2);
        check("http", "kubernetes.io/wss", 80, AppProtocol::Tls);
        check("https-kiali", "", 443, AppProtocol::Tls);
        check("httpx", "", 80, AppProtocol::Unknown);
    }
}
