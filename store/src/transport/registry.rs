//! The OCI registry protocol, as far as artifacts need it (OCI distribution specification 1.1).
//!
//! ```text
//! HEAD, GET, PUT  /v2/REPOSITORY/manifests/TAG
//! HEAD, GET       /v2/REPOSITORY/blobs/sha256:...
//! POST            /v2/REPOSITORY/blobs/uploads/        and PUT to the returned location
//! ```
//! These requests use the same HTTP clients and limits as the other transports; existing client libraries read
//! manifests, tokens and errors of any size.
//!
//! A registry that answers 401 names a token service. The token is requested with user name and password if
//! configured, kept for the run, and requested again when it is refused. Registries that ask for Basic authentication
//! get user name and password directly. Credentials are not sent to other hosts to which the registry redirects, where
//! uploads and blobs may be stored.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::runtime::Heartbeat;
use super::web::{self, Web};
use super::{BadLocation, Location, TransportError};

/// Size limit in bytes. Registries refuse manifests above 4 MiB; kcache's have some 300 bytes for each object.
const MAX_MANIFEST: u64 = 4 << 20;
/// Size limit in bytes. Tokens have a few kilobytes.
const MAX_TOKEN: u64 = 1 << 20;

/// Media type of a manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An artifact: the fields of an image manifest (OCI image specification 1.1) that kcache uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A blob's descriptor in a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    digest: String,
    /// Size in bytes.
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub(super) fn new(artifact_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        let (media_type, artifact_type) = (Some(MANIFEST.to_owned()), Some(artifact_type.to_owned()));
        Manifest { schema_version: 2, media_type, artifact_type, config, layers }
    }
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Descriptor {
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{sha256}"),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

/// One repository of a registry.
pub(super) struct Registry {
    /// `https://HOST/v2/REPOSITORY/`
    base: Url,
    repository: String,
    web: Web,
    username: Option<String>,
    password: String,
    /// A configured token; no other one is requested.
    token: Option<HeaderValue>,
    tickets: Mutex<BTreeMap<Scope, HeaderValue>>,
}

/// The access that a token is requested for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Pull,
    Push,
}

/// An authentication challenge of a registry.
#[derive(Debug, PartialEq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Registry {
    pub(super) fn new(location: &Location, url: &Url) -> Result<Registry, BadLocation> {
        let (base, repository) = address(url).ok_or_else(|| {
            location.bad(
                "must be oci://REGISTRY/REPOSITORY, with a repository of a-z 0-9 . _ - and /, and no tag",
            )
        })?;
        let credentials = web::credentials(location)?;
        Ok(Registry {
            web: Web::new(location, Some(&base))?,
            base,
            repository,
            username: location.username.clone(),
            password: location.password.clone().unwrap_or_default(),
            token: location.token.as_ref().and(credentials.get(AUTHORIZATION).cloned()),
            tickets: Mutex::default(),
        })
    }

    /// The manifest of a tag; `None` if there is none.
    pub(super) async fn manifest(
        &self,
        tag: &str,
        heartbeat: &Heartbeat,
    ) -> Result<Option<Manifest>, TransportError> {
        let request = self.web.reader.get(self.manifest_url(tag)?).header(ACCEPT, MANIFEST);
        let Some(answer) = self.read(request, heartbeat).await? else { return Ok(None) };
        let bytes = self.web.read(answer, MAX_MANIFEST, heartbeat, &|_| ()).await?;
        let manifest = serde_json::from_slice(&bytes);
        manifest.map(Some).map_err(|e| TransportError::Odd(format!("not a manifest: {e}")))
    }

    /// Whether a tag exists.
    pub(super) async fn has_manifest(
        &self,
        tag: &str,
        heartbeat: &Heartbeat,
    ) -> Result<bool, TransportError> {
        let request = self.web.reader.head(self.manifest_url(tag)?).header(ACCEPT, MANIFEST);
        Ok(self.read(request, heartbeat).await?.is_some())
    }

    /// Puts a manifest under a tag, replacing another one.
    pub(super) async fn put_manifest(
        &self,
        tag: &str,
        manifest: &Manifest,
        heartbeat: &Heartbeat,
    ) -> Result<(), TransportError> {
        let bytes = serde_json::to_vec(manifest).map_err(|e| TransportError::Odd(e.to_string()))?;
        let size = bytes.len();
        let request = self.web.writer.put(self.manifest_url(tag)?);
        let request = request.header(CONTENT_TYPE, MANIFEST).body(bytes);
        written(self.send(request, Scope::Push, size, heartbeat).await?, StatusCode::CREATED).map(drop)
    }

    /// The bytes of a blob.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        limit: u64,
        heartbeat: &Heartbeat,
        heard: &dyn Fn(u64),
    ) -> Result<Option<Vec<u8>>, TransportError> {
        let request = self.web.reader.get(self.blob_url(&blob.digest)?);
        match self.read(request, heartbeat).await? {
            Some(answer) => self.web.read(answer, limit, heartbeat, heard).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether a blob exists.
    pub(super) async fn has_blob(
        &self,
        blob: &Descriptor,
        heartbeat: &Heartbeat,
    ) -> Result<bool, TransportError> {
        Ok(self.read(self.web.reader.head(self.blob_url(&blob.digest)?), heartbeat).await?.is_some())
    }

    /// Uploads a blob, unless it exists.
    pub(super) async fn put_blob(
        &self,
        media_type: &str,
        bytes: &[u8],
        heartbeat: &Heartbeat,
    ) -> Result<Descriptor, TransportError> {
        let blob = Descriptor::of(media_type, bytes);
        if self.has_blob(&blob, heartbeat).await? {
            return Ok(blob);
        }
        let url = self.url("blobs/uploads/")?;
        let request = self.web.writer.post(url).body(Vec::new());
        let accepted = written(self.send(request, Scope::Push, 0, heartbeat).await?, StatusCode::ACCEPTED)?;
        let mut place = self.upload_place(&accepted)?;
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let request = self.web.writer.put(place.clone()).header(CONTENT_TYPE, "application/octet-stream");
        let request = request.body(bytes.to_vec());
        let answer = match place.origin() == self.base.origin() {
            true => self.send(request, Scope::Push, bytes.len(), heartbeat).await?,
            // Pre-signed storage on another host: the URL is the permission.
            false => self.web.send(request, bytes.len(), heartbeat).await?,
        };
        written(answer, StatusCode::CREATED)?;
        Ok(blob)
    }

    fn upload_place(&self, answer: &Response) -> Result<Url, TransportError> {
        let place = answer.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let place = place.and_then(|place| answer.url().join(place).ok());
        match place {
            Some(place) if place.scheme() == "https" || self.base.scheme() == "http" => Ok(place),
            _ => Err(TransportError::Odd("no usable upload location".into())),
        }
    }

    fn url(&self, path: &str) -> Result<Url, TransportError> {
        self.base.join(path).map_err(|e| TransportError::Odd(e.to_string()))
    }

    fn manifest_url(&self, tag: &str) -> Result<Url, TransportError> {
        self.url(&format!("manifests/{tag}"))
    }

    /// Checks the digest, because the manifest is untrusted.
    fn blob_url(&self, digest: &str) -> Result<Url, TransportError> {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        match hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => self.url(&format!("blobs/{digest}")),
            false => Err(TransportError::Odd("a manifest with an invalid digest".into())),
        }
    }

    /// The response to a read; `None` if it does not exist.
    async fn read(
        &self,
        request: RequestBuilder,
        heartbeat: &Heartbeat,
    ) -> Result<Option<Response>, TransportError> {
        let answer = self.send(request, Scope::Pull, 0, heartbeat).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(web::refusal(status, "")),
        }
    }

    /// Sends a request, and repeats it with credentials if the registry asks for them.
    async fn send(
        &self,
        request: RequestBuilder,
        scope: Scope,
        size: usize,
        heartbeat: &Heartbeat,
    ) -> Result<Response, TransportError> {
        let again = request.try_clone();
        let known = self.token.clone().or_else(|| self.tickets().get(&scope).cloned());
        let answer = self.web.send(admitted(request, known), size, heartbeat).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.token.is_some() {
            return Ok(answer);
        }
        // Storage that the registry led to must not decide where user name and password are sent.
        if answer.url().origin() != self.base.origin() {
            return Ok(answer);
        }
        let (Some(again), Some(challenge)) = (again, challenge(answer.headers())) else { return Ok(answer) };
        let ticket = self.ticket(&challenge, scope, heartbeat).await?;
        self.tickets().insert(scope, ticket.clone());
        self.web.send(admitted(again, Some(ticket)), size, heartbeat).await
    }

    fn tickets(&self) -> std::sync::MutexGuard<'_, BTreeMap<Scope, HeaderValue>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `Authorization` header that a challenge asks for.
    async fn ticket(
        &self,
        challenge: &Challenge,
        scope: Scope,
        heartbeat: &Heartbeat,
    ) -> Result<HeaderValue, TransportError> {
        let denied = || web::refusal(StatusCode::UNAUTHORIZED, "");
        let basic = self.username.as_ref().map(|name| web::basic(name, &self.password));
        let text = match challenge {
            Challenge::Basic => basic.ok_or_else(denied)?,
            Challenge::Bearer { realm, service } => {
                let url = self.token_url(realm, service.as_deref(), scope)?;
                let basic = basic.filter(|_| is_of_one_house(&self.base, &url));
                // Redirects are not followed: a login elsewhere is not the one that was named.
                let request = admitted(self.web.writer.get(url), basic.as_deref().and_then(web::secret));
                format!("Bearer {}", self.fetch_token(request, heartbeat).await?)
            }
        };
        web::secret(&text).ok_or_else(denied)
    }

    fn token_url(&self, realm: &str, service: Option<&str>, scope: Scope) -> Result<Url, TransportError> {
        let mut url = Url::parse(realm)
            .map_err(|e| TransportError::Odd(format!("a login realm that is not a URL: {e}")))?;
        if url.scheme() != "https" && self.base.scheme() == "https" {
            return Err(TransportError::Odd("a login over plain http".into()));
        }
        let actions = match scope {
            Scope::Pull => "pull",
            Scope::Push => "pull,push",
        };
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &format!("repository:{}:{actions}", self.repository));
        Ok(url)
    }

    async fn fetch_token(
        &self,
        request: RequestBuilder,
        heartbeat: &Heartbeat,
    ) -> Result<String, TransportError> {
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer = self.web.ask(request, heartbeat).await?;
        if answer.status() != StatusCode::OK {
            return Err(web::refusal(answer.status(), "login"));
        }
        let bytes = self.web.read(answer, MAX_TOKEN, heartbeat, &|_| ()).await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        token
            .and_then(|token| token.token.or(token.access_token))
            .ok_or_else(|| TransportError::Odd("a login response without a token".into()))
    }
}

/// Whether the user name may be sent to a token service: if it is on the registry's host, or in the same domain over
/// HTTPS, as `auth.docker.io` is for `registry-1.docker.io`. Otherwise an anonymous token is requested.
fn is_of_one_house(registry: &Url, login: &Url) -> bool {
    let domain = |url: &Url| {
        let mut labels = url.domain()?.rsplit('.').map(str::to_owned);
        let (top, name) = (labels.next()?, labels.next()?);
        // Public suffixes such as `co.uk` belong to nobody: for such names one more label must be equal.
        let is_short = top.len() == 2 && name.len() <= 3;
        Some((top, name, if is_short { Some(labels.next()?) } else { None }))
    };
    let is_https = |url: &Url| url.scheme() == "https" && url.port().is_none();
    let is_near = is_https(registry)
        && is_https(login)
        && domain(registry).is_some_and(|one| domain(login) == Some(one));
    registry.origin() == login.origin() || is_near
}

fn admitted(request: RequestBuilder, ticket: Option<HeaderValue>) -> RequestBuilder {
    match ticket {
        Some(ticket) => request.header(AUTHORIZATION, ticket),
        None => request,
    }
}

fn written(answer: Response, expected: StatusCode) -> Result<Response, TransportError> {
    match answer.status() {
        status if status == expected => Ok(answer),
        status => Err(web::write_refusal(status, "")),
    }
}

/// The repository's URL and name. Plain HTTP is used for this machine only.
fn address(url: &Url) -> Option<(Url, String)> {
    let host = url.host_str()?;
    let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let repository = url.path().trim_matches('/').to_owned();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if !repository
        .split('/')
        .all(|part| !part.trim_matches(['.', '_', '-']).is_empty() && part.bytes().all(plain))
    {
        return None;
    }
    let base = Url::parse(&format!("http://{host}/v2/{repository}/")).ok()?;
    match web::is_local(&base) {
        true => Some((base, repository)),
        false => Some((Url::parse(&format!("https://{host}/v2/{repository}/")).ok()?, repository)),
    }
}

/// The first supported challenge in `WWW-Authenticate` (RFC 9110, section 11.6.1).
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|header| {
        let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: parameter(rest, "realm")?.to_owned(),
                service: parameter(rest, "service").map(str::to_owned),
            }),
            _ => None,
        }
    })
}

/// A parameter of a challenge such as `realm="https://auth.example/token",service="registry"`.
fn parameter<'a>(mut text: &'a str, wanted: &str) -> Option<&'a str> {
    loop {
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        if name.trim_matches([' ', ',']).eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_used_only_for_registries_on_this_machine() {
        let check = |url: &str, expect: Option<&str>| {
            let found = address(&Url::parse(url).unwrap());
            assert_eq!(found.map(|(base, _)| base.to_string()).as_deref(), expect, "{url}");
        };
        check("oci://127.0.0.1:5000/kcache", Some("http://127.0.0.1:5000/v2/kcache/"));
        check("oci://localhost/a/b", Some("http://localhost/v2/a/b/"));
        check("oci://[::1]:5000/a", Some("http://[::1]:5000/v2/a/"));
        check("oci://ghcr.io/team/kernel-modules_1.0", Some("https://ghcr.io/v2/team/kernel-modules_1.0/"));
        check("oci://10.0.0.1:5000/a", Some("https://10.0.0.1:5000/v2/a/"));
        check("oci://ghcr.io/", None);
        check("oci://ghcr.io/a//b", None);
        check("oci://ghcr.io/a/-/b", None);
        check("oci://ghcr.io/Team/a", None);
        check("oci://ghcr.io/team/a:latest", None);
        check("oci:///a", None);
    }

    #[test]
    fn user_names_are_sent_only_to_logins_of_the_same_domain() {
        let check = |registry: &str, login: &str, expect: bool| {
            let url = |text: &str| Url::parse(text).unwrap();
            assert_eq!(is_of_one_house(&url(registry), &url(login)), expect, "{registry} {login}");
        };
        check("https://ghcr.io/v2/a/", "https://ghcr.io/token", true);
        check("https://registry-1.docker.io/v2/a/", "https://auth.docker.io/token", true);
        check("https://registry.gitlab.com/v2/a/", "https://gitlab.com/jwt/auth", true);
        check("https://ghcr.io/v2/a/", "https://evil.example/token", false);
        check("https://ghcr.io/v2/a/", "https://ghcr.io:8443/token", false);
        check("https://ghcr.io/v2/a/", "http://ghcr.io/token", false);
        check("https://a.co.uk/v2/a/", "https://b.co.uk/token", false);
        check("https://r.a.co.uk/v2/a/", "https://l.a.co.uk/token", true);
        check("http://127.0.0.1:5000/v2/a/", "http://127.0.0.1:5000/token", true);
        check("http://127.0.0.1:5000/v2/a/", "http://127.0.0.1:5001/token", false);
        check("https://10.0.0.1/v2/a/", "https://11.0.0.1/token", false);
    }

    #[test]
    fn challenges_are_parsed() {
        let check = |texts: &[&str], expect: Option<Challenge>| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
            }
            assert_eq!(challenge(&headers), expect, "{texts:?}");
        };
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        check(&[], None);
        check(&["Negotiate", r#"Basic realm="a""#], Some(Challenge::Basic));
        check(
            &[r#"Bearer realm="https://a/t",service="s, t",scope="x""#],
            bearer("https://a/t", Some("s, t")),
        );
        check(&[r#"bearer scope="a,b", Realm="https://a/t""#], bearer("https://a/t", None));
        check(&["Bearer realm=https://a/t,service=s"], bearer("https://a/t", Some("s")));
        check(&[r#"Bearer service="s""#], None);
        check(&[r#"Bearer realm="unfinished"#], None);
    }
}
