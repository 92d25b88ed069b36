//! From each kind of shared cache, on a real server, a host with nothing but a kernel image gets its modules.

use crate::builder::{BUILDER, MODULE, PACKAGE, url};
use crate::host::{FIXTURES, Host};
use crate::servers::{DockerRegistry, Garage, Nginx, PASSWORD, USER};
use fs_err as fs;
use std::os::unix::fs::PermissionsExt;

fn k() -> &'static str {
    &FIXTURES.new
}

/// The builder pushes to the cache of a table, and a client that reads it installs what was pushed. `files` are what the
/// table names, under `/etc/kcache` of both.
#[track_caller]
fn serves(name: &str, table: &str, files: &[(&str, &str)]) {
    let client = Host::image_only().trusting(&BUILDER).with_caches(&[table]);
    for root in [client.root(), BUILDER.host.root()] {
        for (file, text) in files {
            let path = root.join("etc/kcache").join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
    let config = BUILDER.host.dir().join(format!("{name}.toml"));
    fs::write(&config, format!("[[cache]]\n{table}\nwrite = true\n")).unwrap();
    let push = ["--config", config.to_str().unwrap(), "push", PACKAGE, "-k", k()];
    client.kcache(&["install", "-k", k()]).exits(5);
    BUILDER.host.kcache(&push).exits(0).prints(&["pushed"]);
    BUILDER.host.kcache(&push).exits(0).prints(&["present"]);
    let outcome = client.kcache(&["--json", "install", "-k", k()]).exits(0).outcome();
    assert_eq!(outcome.how.as_deref(), Some("shared-cache"));
    assert!(client.modules(k()).contains_key(MODULE));
    assert!(client.modinfo(k(), PACKAGE, "vermagic").starts_with(k()));
}

#[test]
fn a_directory() {
    let dir = tempfile::tempdir().unwrap();
    serves("directory", &url(&format!("file://{}", dir.path().display())), &[]);
}

#[test]
fn nginx_with_webdav() {
    let nginx = Nginx::writable();
    serves("webdav", &url(&format!("{}/modules", nginx.url())), &[]);
}

#[test]
fn nginx_with_tls_and_a_password() {
    let nginx = Nginx::secure();
    let table = format!(
        "{}\nca = '/etc/kcache/https-ca.pem'\ncredentials = '/etc/kcache/https-credentials'\n",
        url(&nginx.url())
    );
    let ca = String::from_utf8(nginx.ca()).unwrap();
    let credentials = format!("username = {USER:?}\npassword = {PASSWORD:?}\n");
    serves("https", &table, &[("https-ca.pem", &ca), ("https-credentials", &credentials)]);
}

#[test]
fn a_garage_cluster() {
    let Some(garage) = Garage::cluster() else { return };
    let key = garage.key("builder", &["--read", "--write"]);
    let table = format!(
        "{}\ncredentials = '/etc/kcache/s3-credentials'\noptions = {{ aws_endpoint = {:?}, aws_region = 'garage' }}\n",
        url(&format!("s3://{}/modules", Garage::BUCKET)),
        garage.endpoint(),
    );
    let credentials = format!("access-key-id = {:?}\nsecret-access-key = {:?}\n", key.id, key.secret);
    serves("s3", &table, &[("s3-credentials", &credentials)]);
}

#[test]
fn a_container_registry() {
    let registry = DockerRegistry::writable();
    serves("oci", &url(&format!("oci://{}/site/modules", registry.address())), &[]);
}
