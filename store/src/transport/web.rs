//! The HTTP client of the transports: trusted certificates, redirects, and size limits.
//!
//! - TLS trusts the system's certificates and those of the location. On a machine without any (a minimal container),
//!   plain HTTP works, and so does a location with its own certificate.
//! - Reads follow at most five redirects, never from https to http. Credentials are not sent to another host or port.
//!   Writes follow no redirects: a redirected PUT may end as a GET of a login page.
//! - Redirects, logins and upload locations lead to no nearer address than the server's own ([`super::reach`]).
//! - Bodies are read piece by piece and dropped above their limit; a short one is an error. Nothing is decompressed,
//!   which would hide sizes.
//! - Proxies are those of the environment, as `reqwest` reads it, except that this machine is reached directly.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::reach::Reachable;
use super::runtime::Heartbeat;
use super::{BadLocation, Location, TransportError};

/// Limit on redirects. Real caches need one or two: to a mirror, to pre-signed storage.
const REDIRECTS: usize = 5;
/// Time for which idle connections are kept: some seconds less than servers keep them.
const IDLE: Duration = Duration::from_secs(4);

/// The two HTTP clients of one location.
#[derive(Debug, Clone)]
pub(super) struct Web {
    /// Follows redirects.
    pub(super) reader: Client,
    /// Follows no redirects.
    pub(super) writer: Client,
    /// The addresses that both may contact.
    reachable: Reachable,
    silence: Duration,
}

impl Web {
    /// Makes the clients for a server. Sends nothing yet.
    pub(super) fn new(location: &Location, server: Option<&Url>) -> Result<Web, BadLocation> {
        let reachable = Reachable::from(server, location.stranger);
        let policy = || {
            let reachable = reachable.clone();
            Policy::custom(move |attempt| follow(attempt, &reachable))
        };
        Ok(Web {
            reader: client(location, server, &reachable, &policy)?,
            writer: client(location, server, &reachable, &Policy::none)?,
            reachable,
            silence: location.bounds.silence,
        })
    }

    /// Sends a request that has no body, or a small one.
    pub(super) async fn ask(
        &self,
        request: RequestBuilder,
        heartbeat: &Heartbeat,
    ) -> Result<Response, TransportError> {
        let (client, request) = request.build_split();
        let request = request.map_err(|e| self.lost(&e))?;
        if !self.reachable.allows(request.url()) {
            let host = request.url().host_str().unwrap_or_default();
            return Err(TransportError::Odd(format!("a redirect to {host}, which is not allowed")));
        }
        let response = client.execute(request).await.map_err(|e| self.lost(&e))?;
        heartbeat.beat();
        Ok(response)
    }

    /// Sends a request with a body of this size.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        size: usize,
        heartbeat: &Heartbeat,
    ) -> Result<Response, TransportError> {
        heartbeat.sending(size);
        self.ask(request, heartbeat).await
    }

    /// Reads the whole body of a response, at most `limit` bytes.
    pub(super) async fn read(
        &self,
        mut response: Response,
        limit: u64,
        heartbeat: &Heartbeat,
        heard: &dyn Fn(u64),
    ) -> Result<Vec<u8>, TransportError> {
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(TransportError::TooLong(limit));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.lost(&e))? {
            heartbeat.beat();
            append(&mut bytes, &chunk, limit, heard)?;
            // Chunks may arrive faster than they are read, so yield to let the limits be checked.
            tokio::task::coop::consume_budget().await;
        }
        Ok(bytes)
    }

    /// The error for a missing or incomplete response.
    pub(super) fn lost(&self, error: &reqwest::Error) -> TransportError {
        if error.is_timeout() {
            TransportError::Silent(self.silence)
        } else if error.is_redirect() {
            TransportError::Odd(root(error))
        } else {
            TransportError::Unreachable(root(error))
        }
    }
}

/// Appends received bytes, up to the limit.
pub(super) fn append(
    bytes: &mut Vec<u8>,
    more: &[u8],
    limit: u64,
    heard: &dyn Fn(u64),
) -> Result<(), TransportError> {
    if (bytes.len() + more.len()) as u64 > limit {
        return Err(TransportError::TooLong(limit));
    }
    bytes.extend_from_slice(more);
    heard(more.len() as u64);
    Ok(())
}

/// The error for a response that is neither the file nor its absence. `why` is the server's explanation, if any.
pub(super) fn refusal(status: StatusCode, why: &str) -> TransportError {
    let text = said(status, why);
    match status.as_u16() {
        401 | 403 | 407 => TransportError::Denied(text),
        429 | 500 | 502..=504 => TransportError::Busy(text),
        _ => TransportError::Odd(text),
    }
}

/// Like [`refusal`], for the response to a write.
pub(super) fn write_refusal(status: StatusCode, why: &str) -> TransportError {
    match status.as_u16() {
        405 | 501 | 507 => TransportError::ReadOnly(said(status, why)),
        _ => refusal(status, why),
    }
}

fn said(status: StatusCode, why: &str) -> String {
    match why {
        "" => format!("HTTP {status}"),
        // The server's text is untrusted and will be printed on a terminal.
        why => format!("HTTP {status} ({})", why.escape_debug().take(80).collect::<String>()),
    }
}

/// The `Authorization` header for a location's credentials.
pub(super) fn credentials(location: &Location) -> Result<HeaderMap, BadLocation> {
    let text = match (&location.token, &location.username) {
        (Some(token), _) => format!("Bearer {token}"),
        (None, Some(username)) => basic(username, location.password.as_deref().unwrap_or_default()),
        (None, None) => return Ok(HeaderMap::new()),
    };
    let value = secret(&text)
        .ok_or_else(|| location.bad("the credentials contain characters that HTTP cannot send"))?;
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

/// Value of the `Authorization` header for HTTP Basic (RFC 7617).
pub(super) fn basic(username: &str, password: &str) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

/// A header value that is redacted in debug output.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether the URL's host is this machine.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
        None => false,
    }
}

fn client(
    location: &Location,
    server: Option<&Url>,
    reachable: &Reachable,
    redirects: &dyn Fn() -> Policy,
) -> Result<Client, BadLocation> {
    // Fails if another provider was installed already, which is equally good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = certificates(location)?;
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("kcache/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects())
            .referer(false)
            .dns_resolver(Arc::new(reachable.clone()))
            .connect_timeout(location.bounds.silence) // divided among a host's addresses
            .pool_idle_timeout(IDLE);
        if server.is_some_and(is_local) { builder.no_proxy() } else { builder }
    };
    let with_system = builder().tls_certs_merge(own.clone()).build();
    // Fails if the system has no trusted certificates.
    with_system.or_else(|_| builder().tls_certs_only(own).build()).map_err(|e| location.bad(root(&e)))
}

fn certificates(location: &Location) -> Result<Vec<Certificate>, BadLocation> {
    let Some(pem) = &location.ca else { return Ok(Vec::new()) };
    let certificates = Certificate::from_pem_bundle(pem).map_err(|e| location.bad(root(&e)))?;
    match certificates.is_empty() {
        true => Err(location.bad("the CA file contains no PEM certificate")),
        false => Ok(certificates),
    }
}

fn follow(attempt: Attempt, reachable: &Reachable) -> Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" {
        attempt.error("a redirect from https to http")
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error("more than 5 redirects")
    } else if !reachable.allows(attempt.url()) {
        attempt.error("a redirect to a disallowed address")
    } else {
        attempt.follow()
    }
}

/// The innermost cause: the outer ones only say that a request was being sent.
pub(super) fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
