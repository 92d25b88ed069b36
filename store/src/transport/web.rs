//! HTTP as the shared caches are spoken to: what is trusted, what is followed, how much is read.
//!
//! - TLS trusts what the system trusts, and the certificates of the location. A machine without any trusted
//!   certificates (a minimal container) can still use plain HTTP and a location that brings its own.
//! - Redirects are followed when reading, five at most, never from https to http. Credentials do not go along to
//!   another host or port. Nothing is followed when writing: a redirected PUT may end as a GET of a login page.
//! - Redirects, logins and places for uploads lead to no nearer address than the server's own ([`super::reach`]).
//! - Bodies are read piece by piece and left when they pass their limit; a short one is an error. Nothing is
//!   decompressed on the way, which would hide sizes.
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

/// Redirects that are followed. Real ones take one or two: to a mirror, to signed storage.
const REDIRECTS: usize = 5;
/// Connections lie idle no longer than this, seconds less than servers wait before they hang up on them.
const IDLE: Duration = Duration::from_secs(4);

/// The two clients of one location.
#[derive(Debug, Clone)]
pub(super) struct Web {
    /// Follows redirects.
    pub(super) reader: Client,
    /// Follows none.
    pub(super) writer: Client,
    /// What either may ask.
    reachable: Reachable,
    silence: Duration,
}

impl Web {
    /// Gets ready to speak to a server.
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

    /// Sends a request with so many bytes.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        size: usize,
        heartbeat: &Heartbeat,
    ) -> Result<Response, TransportError> {
        heartbeat.sending(size);
        self.ask(request, heartbeat).await
    }

    /// The whole body of an answer.
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
            // Chunks may be there faster than they are read, and the watch over the call wants its turn.
            tokio::task::coop::consume_budget().await;
        }
        Ok(bytes)
    }

    /// Why there was no answer, or only a part of it.
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

/// Adds what has come in, as far as it is allowed.
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

/// What an answer means that is neither the file nor its absence; `why` is the server's own word for it, if any.
pub(super) fn refusal(status: StatusCode, why: &str) -> TransportError {
    let text = said(status, why);
    match status.as_u16() {
        401 | 403 | 407 => TransportError::Denied(text),
        429 | 500 | 502..=504 => TransportError::Busy(text),
        _ => TransportError::Odd(text),
    }
}

/// The same of an answer to writing.
pub(super) fn write_refusal(status: StatusCode, why: &str) -> TransportError {
    match status.as_u16() {
        405 | 501 | 507 => TransportError::ReadOnly(said(status, why)),
        _ => refusal(status, why),
    }
}

fn said(status: StatusCode, why: &str) -> String {
    match why {
        "" => format!("HTTP {status}"),
        // It comes from the other side and goes to a terminal.
        why => format!("HTTP {status} ({})", why.escape_debug().take(80).collect::<String>()),
    }
}

/// The header that lets a location's user in.
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

/// A basic credential.
pub(super) fn basic(username: &str, password: &str) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

/// A header's value that is never shown.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether it is this machine.
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
    // Fails where another one was chosen already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = certificates(location)?;
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("kcache/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects())
            .referer(false)
            .dns_resolver(Arc::new(reachable.clone()))
            .connect_timeout(location.bounds.silence) // shared out among the addresses of a host
            .pool_idle_timeout(IDLE);
        if server.is_some_and(is_local) { builder.no_proxy() } else { builder }
    };
    let with_system = builder().tls_certs_merge(own.clone()).build();
    // It fails where the system trusts nobody.
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
