//! Builders whose keys do not trust each other push the same builds at the same moment: each one's signature is kept, on the
//! entry, on the pointers and on the site file, so that the hosts of each can use them.

use std::path::Path;
use std::process::{Command, Stdio};

use fs_err as fs;

use super::{Server, k, large};
use crate::builder::{Builder, url};
use crate::host::{Host, run};
use crate::packages::hello;

/// How many signatures each entry and pointer of a cache and its site file have.
fn signatures(cache: &Path) -> Vec<(String, usize)> {
    let places = ["entries", "by-kernel", "by-kin", "site.json"].map(|place| cache.join(place));
    let places = places.into_iter().filter(|place| place.exists());
    let found = run(Command::new("find").args(places).args(["-type", "f"]));
    let count = |path: &str| {
        let envelope: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        (path.to_owned(), envelope["signatures"].as_array().unwrap().len())
    };
    String::from_utf8(found.stdout).unwrap().lines().map(count).collect()
}

#[test]
fn every_signature_of_builders_that_push_at_once_is_kept() {
    let builders = ["one", "two", "three"].map(|name| Builder::new(name, &[]));
    for builder in &builders {
        hello(&builder.host, "");
        fs::write(builder.host.root().join("etc/kcache/site.toml"), "packages = ['hello']\n").unwrap();
        builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut kinds: Vec<Option<Server>> = Server::all().into_iter().map(Some).collect();
    kinds.push(None);
    for server in kinds {
        for round in 0..if large().is_some() { 20 } else { 3 } {
            // Each round has an empty cache.
            let place = |table: String| match &server {
                Some(Server::Nginx(nginx)) => {
                    table.replace(&nginx.url(), &format!("{}/{round}", nginx.url()))
                }
                Some(Server::Garage { .. }) => {
                    table.replace("s3://modules", &format!("s3://modules/{round}"))
                }
                None => table,
            };
            let path = dir.path().join(round.to_string());
            if server.is_none() {
                fs::create_dir(&path).unwrap();
            }
            let of_files = format!("[[cache]]\n{}\n", url(&format!("file://{}", path.display())));
            let configure = |host: &Host, before: &str, after: &str| {
                let etc = host.root().join("etc/kcache");
                if let Some(server) = &server {
                    server.configure(&etc, 0, "", "");
                }
                let table = server.as_ref().map_or(of_files.clone(), |server| server.table(0));
                host.write_config(&format!("{before}{}{after}", place(table)));
            };
            let push = |builder: &Builder| {
                configure(&builder.host, "", "write = true\n");
                let mut push = builder.host.command(&["push", "hello", "-k", k()]);
                push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let children: Vec<_> = builders.iter().map(push).collect();
            for child in children {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            let cache = match &server {
                Some(Server::Nginx(nginx)) => Some(nginx.files().join(round.to_string())),
                Some(Server::Garage { .. }) => None,
                None => Some(path.clone()),
            };
            let found = cache.map(|cache| signatures(&cache)).unwrap_or_default();
            assert!(found.iter().all(|(_, count)| *count == 3), "round {round}: {found:?}");
            assert_eq!(found.iter().any(|(path, _)| path.ends_with("site.json")), !found.is_empty());
            for builder in &builders {
                let client = Host::image_only().trusting(builder);
                configure(&client, "packages = '@site'\n", "");
                client.kcache(&["pull", "-k", k()]).exits(0).prints(&["fetched"]);
            }
        }
    }
}
