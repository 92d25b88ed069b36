//! `s3://`, `gs://` and `az://`: object stores, through the `object_store` crate.
//!
//! `s3://BUCKET/PREFIX` is on AWS; with the option `aws_endpoint`, on any server with the S3 API, in path style
//! (Garage, MinIO, Ceph). Without credentials among the options, requests are not signed. Nothing is read from this
//! machine, and an instance's metadata only if `aws_skip_signature = "false"` (or `google_`, `azure_`) is set.
//!
//! Requests use the same HTTP clients as the other transports, so the same rules for time, sizes, proxies and
//! certificates apply; the options of `object_store` for these are refused. Its retries are disabled: the caller uses
//! the next cache.
//!
//! To keep existing bytes, `has` is called first, and the PUT is conditional (`If-None-Match: *` and the like). AWS
//! supports that. Garage 2.5 ignores the condition, so if two writers both check before either writes, the later one
//! wins. Servers that refuse the condition get a plain PUT. An interrupted PUT leaves nothing.
//!
//! S3 is tested on a real cluster. For `gs` and `az` no server can be run in a test, so tests only verify that they
//! are constructed from their options.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    StaticCredentialProvider,
};
use reqwest::Method;
use url::Url;

use super::runtime::{Deadline, Heartbeat};
use super::web::{self, Web};
use super::{BadLocation, IfTaken, Location, Name, Transport, TransportError};

/// Limit in bytes on the part of an error response that is read. The error's code is at its beginning.
const EXPLANATION: usize = 4 << 10;

/// A cache in a bucket, below a prefix.
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    web: Web,
    deadline: Deadline,
}

impl Bucket {
    pub(super) fn new(location: &Location, url: &Url) -> Result<Bucket, BadLocation> {
        let bucket = match url.host_str() {
            Some(host) if !host.is_empty() && url.port().is_none() => host,
            _ => return Err(location.bad(format!("must be {}://BUCKET/PREFIX", url.scheme()))),
        };
        let prefix = Path::from_url_path(url.path()).map_err(|e| location.bad(web::root(&e)))?;
        let web = Web::new(location, endpoint(location)?.as_ref())?;
        let bound = Bound(web.clone());
        let store = match url.scheme() {
            "s3" => s3(location, bucket, bound),
            "gs" => gs(location, bucket, bound),
            _ => az(location, bucket, bound),
        }?;
        Ok(Bucket { store, prefix, web, deadline: Deadline::of(location) })
    }

    fn path(&self, name: &Name) -> Result<Path, TransportError> {
        let path = format!("{}/{}", self.prefix, name.path());
        Path::parse(path).map_err(|e| TransportError::Odd(web::root(&e)))
    }

    async fn has(&self, path: &Path, heartbeat: &Heartbeat) -> Result<bool, TransportError> {
        let found = self.store.head(path).await;
        heartbeat.beat();
        match found {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.trouble(&e)),
        }
    }

    /// Writes bytes; false if the server kept the existing ones.
    async fn send(
        &self,
        path: &Path,
        bytes: &[u8],
        mode: PutMode,
        heartbeat: &Heartbeat,
    ) -> Result<bool, TransportError> {
        let conditional = mode == PutMode::Create;
        heartbeat.sending(bytes.len());
        let sent = self.store.put_opts(path, PutPayload::from(bytes.to_vec()), mode.into()).await;
        heartbeat.beat();
        match sent {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) if conditional => Ok(false),
            Err(e) => Err(self.trouble(&e)),
        }
    }

    /// The error, from whichever part of the request has the most specific one.
    fn trouble(&self, error: &object_store::Error) -> TransportError {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(trouble) = error.downcast_ref::<TransportError>() {
                return trouble.clone();
            }
            if let Some(lost) = error.downcast_ref::<reqwest::Error>() {
                return self.web.lost(lost);
            }
            cause = error.source();
        }
        match error {
            object_store::Error::NotFound { .. } => {
                TransportError::Odd("HTTP 404: there may be no such bucket".into())
            }
            _ => TransportError::Odd(web::root(error)),
        }
    }
}

impl Transport for Bucket {
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError> {
        let path = self.path(name)?;
        self.deadline.run(limit, async |heartbeat| {
            let answer = match self.store.get(&path).await {
                Ok(answer) => answer,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(self.trouble(&e)),
            };
            heartbeat.beat();
            if answer.meta.size > limit {
                return Err(TransportError::TooLong(limit));
            }
            let mut bytes = Vec::new();
            let mut body = answer.into_stream();
            while let Some(chunk) = body.next().await {
                heartbeat.beat();
                web::append(&mut bytes, &chunk.map_err(|e| self.trouble(&e))?, limit, heard)?;
                tokio::task::coop::consume_budget().await;
            }
            Ok(Some(bytes))
        })
    }

    fn has(&self, name: &Name) -> Result<bool, TransportError> {
        let path = self.path(name)?;
        self.deadline.run(0, async |heartbeat| self.has(&path, heartbeat).await)
    }

    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        let path = self.path(name)?;
        self.deadline.run(bytes.len() as u64, async |heartbeat| {
            if if_taken == IfTaken::Replace {
                return self.send(&path, bytes, PutMode::Overwrite, heartbeat).await;
            }
            if self.has(&path, heartbeat).await? {
                return Ok(false);
            }
            match self.send(&path, bytes, PutMode::Create, heartbeat).await {
                // Not implemented: either the condition, or writing at all.
                Err(TransportError::ReadOnly(_)) => {
                    self.send(&path, bytes, PutMode::Overwrite, heartbeat).await
                }
                sent => sent,
            }
        })
    }
}

fn s3(location: &Location, bucket: &str, http: Bound) -> Result<Arc<dyn ObjectStore>, BadLocation> {
    use AmazonS3ConfigKey as Key;
    const LET_IN: [Key; 6] = [
        Key::AccessKeyId,
        Key::SecretAccessKey,
        Key::WebIdentityTokenFile,
        Key::ContainerCredentialsRelativeUri,
        Key::ContainerCredentialsFullUri,
        Key::SkipSignature,
    ];
    let options = options::<Key>(location)?;
    let unsigned = !options.iter().any(|(key, _)| LET_IN.contains(key));
    let mut builder = AmazonS3Builder::new().with_http_connector(http).with_retry(no_retry());
    for (key, value) in options {
        builder = builder.with_config(key, value);
    }
    if unsigned {
        builder = builder.with_skip_signature(true);
    }
    Ok(Arc::new(builder.with_bucket_name(bucket).build().map_err(|e| location.bad(web::root(&e)))?))
}

fn gs(location: &Location, bucket: &str, http: Bound) -> Result<Arc<dyn ObjectStore>, BadLocation> {
    use GoogleConfigKey as Key;
    const LET_IN: [Key; 5] = [
        Key::ServiceAccount,
        Key::ServiceAccountKey,
        Key::ApplicationCredentials,
        Key::BearerToken,
        Key::SkipSignature,
    ];
    let options = options::<Key>(location)?;
    let unsigned = !options.iter().any(|(key, _)| LET_IN.contains(key));
    let mut builder = GoogleCloudStorageBuilder::new().with_http_connector(http).with_retry(no_retry());
    for (key, value) in options {
        builder = builder.with_config(key, value);
    }
    if unsigned {
        // A dummy credential, so that the builder does not look for one in the home directory.
        let nobody = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
        builder = builder.with_skip_signature(true).with_credentials(Arc::new(nobody));
    }
    Ok(Arc::new(builder.with_bucket_name(bucket).build().map_err(|e| location.bad(web::root(&e)))?))
}

fn az(location: &Location, container: &str, http: Bound) -> Result<Arc<dyn ObjectStore>, BadLocation> {
    use AzureConfigKey as Key;
    const LET_IN: [Key; 10] = [
        Key::AccessKey,
        Key::ClientSecret,
        Key::SasKey,
        Key::Token,
        Key::FederatedTokenFile,
        Key::MsiEndpoint,
        Key::UseAzureCli,
        Key::UseEmulator,
        Key::CredentialType,
        Key::SkipSignature,
    ];
    let options = options::<Key>(location)?;
    let unsigned = !options.iter().any(|(key, _)| LET_IN.contains(key));
    let mut builder = MicrosoftAzureBuilder::new().with_http_connector(http).with_retry(no_retry());
    for (key, value) in options {
        builder = builder.with_config(key, value);
    }
    if unsigned {
        builder = builder.with_skip_signature(true);
    }
    Ok(Arc::new(builder.with_container_name(container).build().map_err(|e| location.bad(web::root(&e)))?))
}

fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// The location's options that configure the store.
fn options<K: FromStr>(location: &Location) -> Result<Vec<(K, &String)>, BadLocation> {
    let mut options = Vec::new();
    for (name, value) in &location.options {
        let plain = ["aws_", "google_", "azure_"].iter().find_map(|prefix| name.strip_prefix(prefix));
        match plain.unwrap_or(name).parse() {
            // An endpoint that begins with http:// already allows it.
            Ok(ClientConfigKey::AllowHttp) => continue,
            Ok(_) => {
                return Err(location.bad(format!(
                    "unsupported option `{name}`: timeouts, proxies and certificates are the same for all caches"
                )));
            }
            Err(_) => {}
        }
        let key = name.parse().map_err(|_| location.bad(format!("unknown option `{name}`")))?;
        options.push((key, value));
    }
    Ok(options)
}

/// The server's URL, if it is not the provider's own.
fn endpoint(location: &Location) -> Result<Option<Url>, BadLocation> {
    let mut endpoint = None;
    for (name, value) in &location.options {
        if name.contains("endpoint") || name.contains("base_url") {
            let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let url = url.ok_or_else(|| {
                location
                    .bad(format!("the option `{name}` must be a URL that begins with http:// or https://"))
            })?;
            endpoint.get_or_insert(url);
        }
    }
    Ok(endpoint)
}

/// Connects `object_store` to kcache's HTTP client, and shortens error responses.
#[derive(Debug)]
struct Bound(Web);

impl HttpConnector for Bound {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Bound(self.0.clone())))
    }
}

impl HttpService for Bound {
    // As the macro `async_trait` would expand the trait's method.
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let writes = request.method() == Method::PUT;
            let answer = HttpService::call(&self.0.writer, request).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let (head, body) = answer.into_parts();
            let mut text = Vec::new();
            let mut body = body.bytes_stream();
            while let Some(Ok(chunk)) = body.next().await {
                text.extend_from_slice(&chunk);
                if text.len() >= EXPLANATION {
                    break;
                }
            }
            match status.as_u16() {
                // `object_store` interprets these statuses, so they are passed on.
                304 | 404 | 409 | 412 => Ok(HttpResponse::from_parts(head, text.into())),
                _ => {
                    let text = String::from_utf8_lossy(&text);
                    let refusal = if writes { web::write_refusal } else { web::refusal };
                    let trouble = refusal(status, code(&text));
                    Err(HttpError::new(HttpErrorKind::Unknown, trouble))
                }
            }
        })
    }
}

/// The code of an S3 error response, `<Error><Code>AccessDenied</Code>...`.
fn code(text: &str) -> &str {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or("", |(code, _)| code)
}
