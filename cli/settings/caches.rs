//! `[[cache]]`: the shared caches, and the credentials for them.
//!
//! Credentials come from a file that only its owner can read, or from the environment; never from the command line, which all
//! users can read, and never from a URL, which ends up in logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kcache::kernel::rootfs::Root;
use kcache::store::transport::Location;
use serde::Deserialize;

use super::{Origin, Process};
use crate::exit::Failure;

/// Where a cache stands whose priority is not given. Lower ones are asked first.
const PRIORITY: i64 = 50;

/// Variables that the tools of the storage services read too. object_store knows them by the same names in lower case.
const USUAL: [&str; 24] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// A credentials file takes some lines.
const MAX_CREDENTIALS: u64 = 64 << 10;

/// All certificates that a distribution trusts take a quarter of this.
const MAX_CA: u64 = 1 << 20;

/// One `[[cache]]` as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    pub(super) url: String,
    priority: Option<i64>,
    #[serde(default)]
    write: bool,
    credentials: Option<PathBuf>,
    credentials_env: Option<String>,
    ca: Option<PathBuf>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// A credentials file as it is written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Credentials {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// One shared cache that is to be used.
#[derive(Clone, Debug)]
pub struct Cache {
    pub url: String,
    pub priority: i64,
    pub write: bool,
    pub origin: Origin,
    /// The tree under `--root` named it, not the caller.
    pub of_image: bool,
    table: Option<Table>,
}

impl Table {
    /// Takes out all that lets a host in or writes; the names of what was there.
    pub(super) fn keep_to_reading(&mut self) -> Vec<&'static str> {
        let Table { url: _, priority: _, write, credentials, credentials_env, ca, options } = self;
        let had = [
            ("write", std::mem::take(write)),
            ("credentials", credentials.take().is_some()),
            ("credentials-env", credentials_env.take().is_some()),
            ("ca", ca.take().is_some()),
            ("options", !std::mem::take(options).is_empty()),
        ];
        had.into_iter().filter_map(|(name, had)| had.then_some(name)).collect()
    }
}

impl Cache {
    /// The cache of a `[[cache]]` table.
    pub fn of_table(table: Table, origin: Origin) -> Cache {
        let priority = table.priority.unwrap_or(PRIORITY);
        Cache {
            url: table.url.clone(),
            priority,
            write: table.write,
            origin,
            of_image: false,
            table: Some(table),
        }
    }

    /// The same, of a table in the tree under `--root`, from which [`super::image`] has taken what it may not say.
    pub fn of_image(table: Table, origin: Origin) -> Cache {
        Cache { of_image: true, ..Cache::of_table(table, origin) }
    }

    /// A cache of which only the URL is given: read before those of the files.
    pub fn of_url(url: &str, origin: Origin) -> Cache {
        Cache { url: url.to_owned(), priority: i64::MIN, write: false, origin, of_image: false, table: None }
    }

    /// What to call it: of several caches with one URL each has its own endpoint.
    pub fn called(&self) -> String {
        let table = self.table.iter();
        match table.flat_map(|table| &table.options).find(|(name, _)| name.contains("endpoint")) {
            Some((_, endpoint)) => format!("{} at {endpoint}", self.url),
            None => self.url.clone(),
        }
    }

    /// Where it is, with what is needed to be let in.
    pub fn location(&self, root: &Root, process: &Process) -> Result<Location, Failure> {
        let mut location = Location { url: self.url.clone(), stranger: self.of_image, ..Location::default() };
        if self.of_image {
            return Ok(location); // nothing of this host's or of the caller's goes to where an image says
        }
        let family = match self.url.split("://").next() {
            Some("s3") => "AWS_",
            Some("gs") => "GOOGLE_",
            Some("az") => "AZURE_",
            _ => return self.complete(location, root, process),
        };
        for name in USUAL.iter().filter(|name| name.starts_with(family)) {
            if let Some(value) = (process.variable)(name) {
                location.options.insert(name.to_ascii_lowercase(), value);
            }
        }
        self.complete(location, root, process)
    }

    /// Adds what the table says.
    fn complete(&self, mut location: Location, root: &Root, process: &Process) -> Result<Location, Failure> {
        let Some(table) = &self.table else { return Ok(location) };
        location.options.extend(table.options.clone());
        if let Some(path) = &table.ca {
            let mut pem = Vec::new();
            open(root, path)?.take(MAX_CA).read_to_end(&mut pem)?;
            location.ca = Some(pem);
        }
        if let Some(prefix) = &table.credentials_env {
            let variable = |name: &str| (process.variable)(&format!("{prefix}_{name}"));
            location.username = variable("USERNAME");
            location.password = variable("PASSWORD");
            location.token = variable("TOKEN");
        }
        if let Some(path) = &table.credentials {
            apply(read_credentials(&root.outside(path), open(root, path)?)?, &mut location);
        }
        Ok(location)
    }
}

fn apply(credentials: Credentials, location: &mut Location) {
    let Credentials { username, password, token, access_key_id, secret_access_key, session_token, options } =
        credentials;
    location.username = username.or(location.username.take());
    location.password = password.or(location.password.take());
    location.token = token.or(location.token.take());
    let keys = [
        ("aws_access_key_id", access_key_id),
        ("aws_secret_access_key", secret_access_key),
        ("aws_session_token", session_token),
    ];
    // A key of the file and a session of the environment are of two logins.
    if keys.iter().any(|(_, value)| value.is_some()) {
        keys.iter().for_each(|(name, _)| drop(location.options.remove(*name)));
    }
    for (name, value) in keys {
        if let Some(value) = value {
            location.options.insert(name.to_owned(), value);
        }
    }
    location.options.extend(options);
}

/// A path of the configuration is one of the system that is worked on.
fn open(root: &Root, path: &Path) -> Result<File, Failure> {
    root.open(path).map_err(|e| Failure::usage(e.to_string(), None))
}

fn read_credentials(path: &Path, file: File) -> Result<Credentials, Failure> {
    let meta = file.metadata()?;
    let mode = meta.mode() & 0o7777;
    let refused = |reason: String, command: &str| Failure {
        exit: crate::exit::Exit::Refused,
        message: format!("{} contains credentials but is {reason}", path.display()),
        hint: Some(format!("run `{command} {}`", path.display())),
    };
    if mode & 0o077 != 0 {
        return Err(refused(format!("readable by others (mode {mode:04o})"), "chmod 600"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&meta.uid()) {
        return Err(refused(format!("owned by another user (uid {})", meta.uid()), "chown root"));
    }
    let mut text = String::new();
    file.take(MAX_CREDENTIALS).read_to_string(&mut text)?;
    // The parser's message would show the line, and with it what is secret in it.
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::usage(format!("{}: line {line}: {}", path.display(), error.message()), None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::PermissionsExt;

    fn location(
        table: &str,
        files: &[(&str, &str, u32)],
        variables: &[(&str, &str)],
    ) -> Result<Location, Failure> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text, mode) in files {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        let process =
            Process { variable: &variable, is_root: true, cpus: 1, memory: None, total_memory: None };
        let table = toml::from_str(table).unwrap();
        Cache::of_table(table, Origin::Default).location(&Root::new(dir.path()), &process)
    }

    #[test]
    fn credentials_come_from_a_private_file_or_the_environment() {
        let file = [("c", "username = 'u'\npassword = 'p'\naccess-key-id = 'file'\n", 0o600)];
        let env = [("AWS_ACCESS_KEY_ID", "env"), ("AWS_SESSION_TOKEN", "t"), ("AWS_PAGER", "x")];
        let found = location("url = 's3://b'\ncredentials = '/c'\n", &file, &env).unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("u"), Some("p")));
        let options: Vec<_> = found.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(options, ["aws_access_key_id=file"]);
        let found = location("url = 's3://b'\n", &[], &env).unwrap();
        let options: Vec<_> = found.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(options, ["aws_access_key_id=env", "aws_session_token=t"]);
        assert!(location("url = 'gs://b'\n", &[], &env).unwrap().options.is_empty());
        let env = [("CI_TOKEN", "secret")];
        let found = location("url = 'https://h'\ncredentials-env = 'CI'\n", &[], &env).unwrap();
        assert_eq!(found.token.as_deref(), Some("secret"));
    }

    #[test]
    fn a_credentials_file_that_others_can_read_is_refused_and_a_wrong_one_not_shown() {
        let failure = |text: &str, mode| {
            location("url = 's3://b'\ncredentials = '/c'\n", &[("c", text, mode)], &[]).unwrap_err()
        };
        assert!(failure("token = 'x'\n", 0o640).message.contains("readable by others (mode 0640)"));
        let wrong = failure("username = 'u'\npasword = 'hunter2'\n", 0o600);
        assert!(wrong.message.contains("line 2") && wrong.message.contains("pasword"), "{}", wrong.message);
        assert!(!wrong.message.contains("hunter2"), "{}", wrong.message);
        assert!(failure("token = 'sec", 0o600).message.contains("line 1"));
    }
}
