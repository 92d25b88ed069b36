//! Transports: ways to reach a shared cache. `file://`, `http(s)://` with WebDAV, `s3://`, `gs://`, `az://` and
//! `oci://`.
//!
//! A transport moves named bytes and trusts none of them: the caller verifies signatures and digests. It guarantees
//! that every call ends within [`Bounds`], with at most the allowed number of bytes, whatever the server does.
//! Transports do not retry; the caller uses the next cache instead.
//!
//! The layout is that of a store, so any store can be served unchanged:
//! ```text
//! entries/ab/<key>.json
//! objects/ab/<digest>.zst
//! by-kernel/<release>/<kernel>/<package>.json
//! signatures/<signer>/<digest>.p7s
//! keys/builders.pem
//! ```
//! Everything except pointers, detached signatures and the builders' keys is written once. Two writers of one object write the same bytes,
//! so no lock is needed. Of two writers of one entry, the first is kept, as far as the server can tell which was
//! first.
//!
//! ```text
//! runtime    the only place where asynchronous code is waited for, and the time limit of every wait
//! web        the HTTP client of all but `file`: TLS, redirects, bodies with a size limit
//! file, http, cloud, oci    one file for each kind of cache; oci uses the protocol in `registry`
//! ```

mod cloud;
mod file;
#[cfg(test)]
mod hostile;
mod http;
mod oci;
mod reach;
mod registry;
mod runtime;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use url::Url;

use crate::{Digest, Key, SignerId};

/// Supported URL schemes, for messages.
const SCHEMES: &str = "file, http, https, s3, gs, az, oci";

/// Makes the transport for a location. Sends nothing yet.
///
/// # Errors
///
/// [`BadLocation`] if the URL or an option is invalid. Whether the cache can be reached shows at the first call.
pub fn open(location: &Location) -> Result<Arc<dyn Transport>, BadLocation> {
    let url = location.parse()?;
    Ok(match url.scheme() {
        "file" => Arc::new(file::Directory::new(location, &url)?),
        "http" | "https" => Arc::new(http::Server::new(location, url)?),
        "s3" | "gs" | "az" => Arc::new(cloud::Bucket::new(location, &url)?),
        "oci" => Arc::new(oci::Repository::new(location, &url)?),
        other => return Err(location.bad(format!("unknown scheme `{other}`; supported: {SCHEMES}"))),
    })
}

/// A connection to one shared cache. Threads may share it, but not those of an asynchronous runtime.
pub trait Transport: Send + Sync {
    /// Reads the bytes of a name, at most `limit`; `None` if it does not exist. `heard` is called with the number of
    /// bytes received since the last call.
    ///
    /// # Errors
    ///
    /// [`TransportError::TooLong`] above `limit`; the other variants describe the connection or the server.
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError>;

    /// Whether a name exists.
    fn has(&self, name: &Name) -> Result<bool, TransportError>;

    /// Writes the bytes of a name; false if it existed and `if_taken` is [`IfTaken::Keep`]. Write an entry after its
    /// objects, through the same transport: an OCI registry stores them as one artifact.
    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError>;
}

/// What to do if the name already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// Keep the existing bytes.
    Keep,
    /// Replace the existing bytes.
    Replace,
}

/// The name of a file in a shared cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// An entry, by its key.
    Entry(Key),
    /// An object that an entry references.
    Object {
        /// Key of the entry that references it. OCI registries need it to find the artifact.
        of: Key,
        /// The object's digest.
        digest: Digest,
    },
    /// The pointer of a package for a kernel.
    Pointer {
        /// Release of the kernel, as `uname -r` prints it.
        release: String,
        /// Digest of architecture and `uname -v`, which distinguishes kernels of one release.
        kernel: Digest,
        /// Name of the package.
        package: String,
    },
    /// A detached signature of an object.
    Signature {
        /// The certificate or key that made it.
        by: SignerId,
        /// Digest of the signed object.
        of: Digest,
    },
    /// The public keys of the builders that push here.
    Builders,
    /// What the hosts of the site want.
    Site,
}

impl Name {
    /// The path relative to the cache's top directory.
    pub fn path(&self) -> String {
        match self {
            Name::Entry(key) => sharded("entries", &key.to_string(), "json"),
            Name::Object { digest, .. } => sharded("objects", &digest.to_string(), "zst"),
            Name::Pointer { release, kernel, package } => {
                format!("by-kernel/{release}/{kernel}/{package}.json")
            }
            Name::Signature { by, of } => format!("signatures/{by}/{of}.p7s"),
            Name::Builders => "keys/builders.pem".to_owned(),
            Name::Site => "site.json".to_owned(),
        }
    }
}

fn sharded(top: &str, name: &str, suffix: &str) -> String {
    format!("{top}/{}/{name}.{suffix}", &name[..2])
}

/// Time limits of a call.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Time without any sign of life: from the request to the first sign of an answer, and between two later ones.
    pub silence: Duration,
    /// Time for any request. The time for the largest allowed size at `rate` is added.
    pub base: Duration,
    /// The slowest acceptable speed, in bytes per second.
    pub rate: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        // A cache that does not answer costs 3 s. One slower than 128 KiB/s is slower than most builds.
        Bounds { silence: Duration::from_secs(3), base: Duration::from_secs(10), rate: 128 << 10 }
    }
}

impl Bounds {
    /// Time limit of a call that moves `size` bytes.
    pub fn total(&self, size: u64) -> Duration {
        self.base + Duration::from_secs(size / self.rate.max(1))
    }
}

/// A shared cache's URL, credentials and limits. Nothing is read from the environment.
#[derive(Clone, Default)]
pub struct Location {
    /// `file:///DIR` or `/DIR`, `http(s)://HOST/PATH`, `s3://BUCKET/PREFIX`, `gs://...`, `az://...`, `oci://REGISTRY/REPOSITORY`.
    pub url: String,
    /// PEM certificates to trust for TLS in addition to the system's.
    pub ca: Option<Vec<u8>>,
    /// User name for `http(s)` and `oci` (HTTP Basic, RFC 7617).
    pub username: Option<String>,
    /// Password for `username`.
    pub password: Option<String>,
    /// Bearer token (RFC 6750), instead of user name and password.
    pub token: Option<String>,
    /// Options of the object store, with the names of the `object_store` crate, such as `aws_endpoint`, `aws_region`,
    /// `aws_access_key_id`: from the configuration, a credentials file, or the usual environment variables. Without
    /// credentials among them, requests are not signed, so only public buckets can be read.
    pub options: BTreeMap<String, String>,
    /// Somebody chose it whom the caller need not trust. It is then asked nowhere on this machine (loopback) and nowhere on its
    /// links (link-local, where clouds answer with credentials). Private networks are allowed: fleets have their caches there.
    pub stranger: bool,
    /// Time limits of each call.
    pub bounds: Bounds,
    /// Cancels all calls when set.
    pub cancel: Arc<AtomicBool>,
}

/// Why a request to a shared cache failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection, or it was interrupted.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No sign of life within [`Bounds::silence`].
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Too slow: the call reached [`Bounds::total`].
    #[error("did not finish within {} s", .0.as_secs_f32())]
    Slow(Duration),
    /// Access was denied; with the server's explanation.
    #[error("refused access: {0}")]
    Denied(String),
    /// The response is neither the file nor its absence.
    #[error("sent an invalid response: {0}")]
    Odd(String),
    /// The server is overloaded or temporarily unavailable (HTTP 429, 5xx).
    #[error("is too busy: {0}")]
    Busy(String),
    /// The response is larger than the limit in bytes.
    #[error("sent more than {0} bytes")]
    TooLong(u64),
    /// The cache cannot be written.
    #[error("cannot be written to: {0}")]
    ReadOnly(String),
    /// [`Location::cancel`] was set.
    #[error("interrupted")]
    Cancelled,
}

impl TransportError {
    /// Whether the same request may succeed a few seconds later: the cache was slow, or its server restarts.
    pub fn may_pass(&self) -> bool {
        match self {
            TransportError::Silent(_) | TransportError::Slow(_) | TransportError::Busy(_) => true,
            // The messages of ECONNREFUSED, ECONNRESET and ECONNABORTED (errno(3)).
            TransportError::Unreachable(why) => {
                ["Connection refused", "Connection reset", "connection abort"]
                    .iter()
                    .any(|sign| why.contains(sign))
            }
            _ => false,
        }
    }
}

/// A location that cannot be used, because of its URL or options.
#[derive(Debug, thiserror::Error)]
#[error("shared cache {url}: {reason}")]
pub struct BadLocation {
    /// The location's URL, without any credentials.
    pub url: String,
    /// What is wrong with the URL or options.
    pub reason: String,
}

impl Location {
    /// Parses the URL; a path is a `file` URL.
    fn parse(&self) -> Result<Url, BadLocation> {
        let url = match self.url.strip_prefix('/') {
            Some(_) => Url::from_file_path(&self.url).map_err(|()| self.bad("not a path"))?,
            None => Url::parse(&self.url).map_err(|e| self.bad(format!("not a URL: {e}")))?,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                self.bad("the URL must not contain a user name or password; use the setting `credentials`")
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(self.bad("the URL must not contain `?` or `#`"));
        }
        Ok(url)
    }

    /// Makes the error for this location.
    fn bad(&self, reason: impl Into<String>) -> BadLocation {
        BadLocation { url: without_credentials(&self.url), reason: reason.into() }
    }
}

/// Removes whatever may be a user name or password, also from invalid URLs.
pub fn without_credentials(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    match url[host..path].rfind('@') {
        Some(at) => format!("{}{}", &url[..host], &url[host + at + 1..]),
        None => url.to_owned(),
    }
}

impl fmt::Debug for Location {
    /// Credentials are omitted, so that they do not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Location").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(location: Location) -> String {
        open(&location).err().expect("it is not usable").to_string()
    }

    #[test]
    fn invalid_locations_give_a_reason() {
        let check = |url: &str, expect: &str| {
            let said = bad(Location { url: url.to_owned(), ..Location::default() });
            assert!(said.contains(expect), "{said}");
        };
        check("cache.example", "shared cache cache.example: not a URL");
        check("ftp://cache.example/", "unknown scheme `ftp`; supported: file, http, https, s3, gs, az, oci");
        check("file://server/export", "use file:///DIR");
        check("https://cache.example/a?b=c", "must not contain `?` or `#`");
        check("s3:///prefix", "must be s3://BUCKET/PREFIX");
        check("s3://bucket/a//b", "Path");
        check("oci://ghcr.io/team/kcache:latest", "no tag");
        check("az://container/", "Account");
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_redacted() {
        let check = |url: &str, shown: &str| {
            let said = bad(Location { url: url.to_owned(), ..Location::default() });
            assert!(said.starts_with(&format!("shared cache {shown}: ")), "{said}");
            assert!(!said.contains("secret"), "{said}");
        };
        check("https://user:secret@cache.example/a", "https://cache.example/a");
        check("https://secret@cache.example", "https://cache.example");
        check("oci://user:secret@[::1", "oci://[::1");
        check("user:secret@cache.example/a", "cache.example/a");
    }

    #[test]
    fn object_stores_are_constructed_from_their_options() {
        let location = |url: &str, options: &[(&str, &str)]| Location {
            url: url.to_owned(),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Location::default()
        };
        let check = |url: &str, options: &[(&str, &str)], expect: &str| {
            let said = open(&location(url, options)).err().map_or(String::new(), |bad| bad.to_string());
            assert!(said.contains(expect) && said.is_empty() == expect.is_empty(), "{said}");
        };
        check("s3://bucket", &[], "");
        check(
            "s3://bucket/p",
            &[("aws_access_key_id", "a"), ("aws_secret_access_key", "b"), ("aws_region", "c")],
            "",
        );
        check("s3://bucket/p", &[("aws_allow_http", "true")], "");
        check("gs://bucket/p", &[], "");
        check("gs://bucket/p", &[("google_bearer_token", "a")], "");
        check("az://container/p", &[("azure_storage_account_name", "a")], "");
        check(
            "az://container/p",
            &[("azure_storage_account_name", "a"), ("azure_storage_account_key", "aGk=")],
            "",
        );
        check("s3://bucket", &[("aws_acess_key_id", "a")], "unknown option `aws_acess_key_id`");
        check("s3://bucket", &[("aws_access_key_id", "a")], "Missing SecretAccessKey");
        check("s3://bucket", &[("aws_timeout", "1 s")], "unsupported option `aws_timeout`");
        check(
            "s3://bucket",
            &[("aws_endpoint", "127.0.0.1:3900")],
            "the option `aws_endpoint` must be a URL",
        );
    }

    #[test]
    fn a_ca_file_must_contain_certificates() {
        let ca =
            |pem: &str| Location { url: "https://a/".into(), ca: Some(pem.into()), ..Location::default() };
        assert!(bad(ca("")).contains("no PEM certificate"));
        assert!(!bad(ca("-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n")).is_empty());
    }
}
