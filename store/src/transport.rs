//! Ways to reach a shared cache: `file://`, `http(s)://` with WebDAV, `s3://`, `gs://`, `az://` and `oci://`.
//!
//! A transport moves named bytes and believes none of them: what they are worth is decided by whoever asked, from
//! signatures and digests. What it promises is to come back: every call ends within [`Bounds`], with at most the
//! bytes that were allowed, whatever the other side does. Nothing is retried here; the next cache is tried instead.
//!
//! The tree is a store's own, so that any store can be served as it is:
//! ```text
//! entries/ab/<key>.json
//! objects/ab/<digest>.zst
//! by-kernel/<release>/<kernel>/<package>.json
//! signatures/<signer>/<digest>.p7s
//! ```
//! Everything but pointers and detached signatures is written once. Two writers of one object write the same bytes, so there is nothing to
//! lock; of two writers of one entry the first stays, as far as the other side can tell first from second.
//!
//! ```text
//! runtime    the only place where asynchronous code is waited for, and what ends every wait
//! web        HTTP as all but `file` speak it: TLS, redirects, bodies with a limit
//! file, http, cloud, oci    one file for each kind of place; oci speaks to a `registry`
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

/// The schemes of a location's URL.
const SCHEMES: &str = "file, http, https, s3, gs, az, oci";

/// Gets ready to reach a shared cache. Nothing is sent yet.
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

/// One way to reach one shared cache. Called from several threads, none of which may be an asynchronous runtime's.
pub trait Transport: Send + Sync {
    /// The bytes under a name, at most `limit` of them; `None` where there are none. `heard` is told each time some
    /// bytes have come in: how many since the last time.
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError>;

    /// Whether there is something under a name.
    fn has(&self, name: &Name) -> Result<bool, TransportError>;

    /// Puts bytes under a name; false where something was there and was to stay. An entry is put after its objects,
    /// through the same transport: some servers want to be told what belongs together.
    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError>;
}

/// What to do with bytes that already have the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// They stay.
    Keep,
    /// The new ones take their place.
    Replace,
}

/// A name in a shared cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A key's entry.
    Entry(Key),
    /// An object that an entry speaks of.
    Object {
        /// The entry's key.
        of: Key,
        /// The object.
        digest: Digest,
    },
    /// What is newest of a package for a kernel.
    Pointer {
        /// The kernel's release.
        release: String,
        /// Digest of what tells kernels of one release apart.
        kernel: Digest,
        /// The package.
        package: String,
    },
    /// A signature of an object that is kept apart from it.
    Signature {
        /// Who made it.
        by: SignerId,
        /// The object that it is of.
        of: Digest,
    },
}

impl Name {
    /// Where it lies, relative to the top.
    pub fn path(&self) -> String {
        match self {
            Name::Entry(key) => sharded("entries", &key.to_string(), "json"),
            Name::Object { digest, .. } => sharded("objects", &digest.to_string(), "zst"),
            Name::Pointer { release, kernel, package } => {
                format!("by-kernel/{release}/{kernel}/{package}.json")
            }
            Name::Signature { by, of } => format!("signatures/{by}/{of}.p7s"),
        }
    }
}

fn sharded(top: &str, name: &str, suffix: &str) -> String {
    format!("{top}/{}/{name}.{suffix}", &name[..2])
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the beginning of a request to the first sign of an answer; and between two signs of life after that.
    pub silence: Duration,
    /// For any request; to which come as many seconds as `rate` grants for the size that is moved at most.
    pub base: Duration,
    /// The slowest that is still worth waiting for, in bytes a second.
    pub rate: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        // A cache that does not answer costs 3 s. One that answers slower than 128 KiB/s is slower than most builds.
        Bounds { silence: Duration::from_secs(3), base: Duration::from_secs(10), rate: 128 << 10 }
    }
}

impl Bounds {
    /// The longest that moving `size` bytes may take.
    pub fn total(&self, size: u64) -> Duration {
        self.base + Duration::from_secs(size / self.rate.max(1))
    }
}

/// Where a shared cache is, and how to be let in. Everything is passed in: nothing here looks at the environment.
#[derive(Clone, Default)]
pub struct Location {
    /// `file:///DIR` or `/DIR`, `http(s)://HOST/PATH`, `s3://BUCKET/PREFIX`, `gs://...`, `az://...`, `oci://REGISTRY/REPOSITORY`.
    pub url: String,
    /// PEM certificates to be trusted for TLS besides the system's.
    pub ca: Option<Vec<u8>>,
    /// User name, for `http(s)` and `oci`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// A bearer token, instead of the two above.
    pub token: Option<String>,
    /// Options of the object store by the names that `object_store` gives them, e.g. `aws_endpoint`, `aws_region`,
    /// `aws_access_key_id`: from the configuration, a credentials file, or the usual environment variables. Where none
    /// is a credential, requests are not signed, and public buckets can be read.
    pub options: BTreeMap<String, String>,
    /// Somebody chose it whom the caller need not trust. It is then asked nowhere on this machine (loopback) and nowhere on its
    /// links (link-local, where clouds answer with credentials). Private networks are allowed: fleets have their caches there.
    pub stranger: bool,
    /// How long a call may take.
    pub bounds: Bounds,
    /// Set to end all calls.
    pub cancel: Arc<AtomicBool>,
}

/// Why a shared cache was of no use this time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing was heard for too long.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It sent, but too slowly.
    #[error("did not finish within {} s", .0.as_secs_f32())]
    Slow(Duration),
    /// It refused; in its words.
    #[error("refused access: {0}")]
    Denied(String),
    /// It answered with something other than the file or its absence.
    #[error("sent an invalid response: {0}")]
    Odd(String),
    /// It has too much to do, or is broken for a while.
    #[error("is too busy: {0}")]
    Busy(String),
    /// It sent more than was allowed.
    #[error("sent more than {0} bytes")]
    TooLong(u64),
    /// It cannot be written to.
    #[error("cannot be written to: {0}")]
    ReadOnly(String),
    /// The run was ended.
    #[error("interrupted")]
    Cancelled,
}

/// A location that cannot be used as it stands.
#[derive(Debug, thiserror::Error)]
#[error("shared cache {url}: {reason}")]
pub struct BadLocation {
    /// The location's URL, without any credentials.
    pub url: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Location {
    /// The URL in its parts; a bare path is a `file` URL.
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

    /// What is wrong with it.
    fn bad(&self, reason: impl Into<String>) -> BadLocation {
        BadLocation { url: without_credentials(&self.url), reason: reason.into() }
    }
}

/// Whatever may be a user name or password is left out, also of what is not quite a URL.
pub fn without_credentials(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    match url[host..path].rfind('@') {
        Some(at) => format!("{}{}", &url[..host], &url[host + at + 1..]),
        None => url.to_owned(),
    }
}

impl fmt::Debug for Location {
    /// Without credentials: they must not reach a log.
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
    fn locations_that_cannot_be_used_say_why() {
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
    fn a_password_in_a_url_is_refused_and_not_shown() {
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
    fn object_stores_are_built_from_their_options() {
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
    fn certificates_must_be_some() {
        let ca =
            |pem: &str| Location { url: "https://a/".into(), ca: Some(pem.into()), ..Location::default() };
        assert!(bad(ca("")).contains("no PEM certificate"));
        assert!(!bad(ca("-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n")).is_empty());
    }
}
