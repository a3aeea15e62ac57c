//! HTTP of the metrics: a request is parsed, a response formatted. No system call.

/// Longest head of a request.
pub(super) const HEAD_MAX: usize = 8192;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// The resources.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Resource {
    Metrics,
    Health,
    Readiness,
}

/// Status of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    HeadTooLarge,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    /// The code and its reason (RFC 9110, 15; RFC 6585, 5).
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Request, or the reason why there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// GET or, without the body of the response, HEAD.
    Get { resource: Resource, with_body: bool },
    /// To be answered with this error.
    Refused { status: Status, with_body: bool },
}

impl Request {
    pub(super) const fn refused(status: Status) -> Self {
        Self::Refused { status, with_body: true }
    }
}

/// Parses the beginning of what a client sends; `None` if the head is not complete yet.
pub(super) fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => Some(answer(&request)),
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Some(Request::refused(Status::HeadTooLarge))
        }
        Err(httparse::Error::Version) => Some(Request::refused(Status::VersionNotSupported)),
        Err(_) => Some(Request::refused(Status::BadRequest)),
    }
}

fn answer(request: &httparse::Request<'_, '_>) -> Request {
    let method = request.method.unwrap_or_default();
    let with_body = method != "HEAD";
    let is_host = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("host");
    let hosts = request.headers.iter().filter(is_host).count();
    // HTTP/1.1 requires exactly one (RFC 9112, 3.2).
    if hosts > 1 || hosts == 0 && request.version == Some(1) {
        return Request::Refused { status: Status::BadRequest, with_body };
    }
    let resource = match path(request.path.unwrap_or_default()) {
        "/metrics" => Resource::Metrics,
        "/healthz" => Resource::Health,
        "/readyz" => Resource::Readiness,
        _ => return Request::Refused { status: Status::NotFound, with_body },
    };
    match method {
        "GET" | "HEAD" => Request::Get { resource, with_body },
        _ => Request::Refused { status: Status::MethodNotAllowed, with_body },
    }
}

/// Path of a request target, which may be a whole URI (RFC 9112, 3.2.2).
fn path(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Formats a response, after which the connection is closed.
pub(super) fn response(status: Status, kind: &str, body: &str, with_body: bool) -> Vec<u8> {
    let (line, length) = (status.line(), body.len());
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         {allow}Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Formats the response to a request that is refused.
pub(super) fn refusal(status: Status, with_body: bool) -> Vec<u8> {
    let body = match status {
        Status::NotFound => "not found: /metrics, /healthz and /readyz are here\n".to_owned(),
        _ => format!("{}\n", status.line()),
    };
    response(status, TEXT, &body, with_body)
}

/// Content type of everything but the metrics.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    const GET: Request = Request::Get { resource: Resource::Metrics, with_body: true };

    fn refused(status: Status) -> Option<Request> {
        Some(Request::refused(status))
    }

    #[test]
    fn requests_are_parsed() {
        let of = |resource| Some(Request::Get { resource, with_body: true });
        let head = Some(Request::Get { resource: Resource::Metrics, with_body: false });
        for (text, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(GET)),
            ("GET /metrics HTTP/1.1\nhost: a\n\n", Some(GET)),
            ("GET /metrics HTTP/1.0\r\n\r\n", Some(GET)),
            ("GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Some(GET)),
            ("\r\nGET /metrics?format=text#top HTTP/1.0\r\n\r\n", Some(GET)),
            ("GET http://a:1/metrics HTTP/1.1\r\nHost: a:1\r\n\r\n", Some(GET)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n", Some(GET)),
            ("HEAD /metrics HTTP/1.1\r\nHost:\r\n\r\n", head),
            ("GET /healthz HTTP/1.0\r\n\r\n", of(Resource::Health)),
            ("GET /readyz HTTP/1.0\r\n\r\n", of(Resource::Readiness)),
            ("GET / HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            ("GET http://a HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            ("GET /metrics/ HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            ("GET /x?/metrics HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            ("GET /x://y/metrics HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            ("OPTIONS * HTTP/1.0\r\n\r\n", refused(Status::NotFound)),
            (
                "POST /metrics HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
                refused(Status::MethodNotAllowed),
            ),
            ("BREW /readyz HTTP/1.0\r\n\r\n", refused(Status::MethodNotAllowed)),
            ("GET /metrics HTTP/1.1\r\n\r\n", refused(Status::BadRequest)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", refused(Status::BadRequest)),
            ("GET /metrics\r\n\r\n", refused(Status::BadRequest)),
            ("GET /metrics HTTP/2.0\r\n\r\n", refused(Status::VersionNotSupported)),
            ("\x16\x03\x01\x02\x00\x01", refused(Status::BadRequest)), // TLS
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn head_is_complete_with_its_last_byte() {
        let text = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), None, "{length}");
        }
        assert_eq!(parse(text), Some(GET));
    }

    #[test]
    fn long_heads_are_refused() {
        let long = format!("GET /metrics HTTP/1.0\r\nX: {}", "x".repeat(HEAD_MAX));
        assert_eq!(parse(&long.as_bytes()[..HEAD_MAX - 1]), None);
        assert_eq!(parse(&long.as_bytes()[..HEAD_MAX]), refused(Status::HeadTooLarge));
        let many = format!("GET /metrics HTTP/1.0\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX));
        assert_eq!(parse(many.as_bytes()), Some(GET));
        let more = format!("GET /metrics HTTP/1.0\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(more.as_bytes()), refused(Status::HeadTooLarge));
    }

    #[test]
    fn random_and_damaged_requests_do_not_panic() {
        let valid = b"GET http://a/metrics?x HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n";
        for seed in 0..20_000 {
            let mut rng = Rng::with_seed(seed);
            let mut bytes = valid.to_vec();
            match seed % 2 {
                0 => {
                    bytes.resize(rng.usize(..200), 0);
                    rng.fill(&mut bytes);
                }
                _ => (0..rng.usize(1..6)).for_each(|_| {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                }),
            }
            if let Some(Request::Refused { status, with_body }) = parse(&bytes) {
                assert!(refusal(status, with_body).starts_with(b"HTTP/1.1 "), "seed {seed}");
            }
        }
    }

    #[test]
    fn response_has_the_length_of_the_body_also_without_it() {
        let ok = response(Status::Ok, "text/plain", "body", true);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\
                        Connection: close\r\n\r\n";
        assert_eq!(String::from_utf8(ok).unwrap(), format!("{expected}body"));
        let head = response(Status::Ok, "text/plain", "body", false);
        assert_eq!(String::from_utf8(head).unwrap(), expected);
        let refusal = String::from_utf8(refusal(Status::MethodNotAllowed, true)).unwrap();
        assert!(refusal.contains("\r\nAllow: GET, HEAD\r\n"), "{refusal}");
    }
}
