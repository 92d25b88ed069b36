//! `packages = "@site"`: what a builder's site file says that hosts want; and that file, where a builder publishes it.
//!
//! A builder keeps what it publishes in `/etc/kcache/site.toml`. Hosts ask their caches for it when they install, and keep the last one that
//! trusted keys signed. Its packages are wanted like those of the host's own settings. Its policy comes before the host's own, so that
//! the last matching rule is the host's. Its threshold is a hint. A host that knows no site file does not know what it wants, so
//! no kernel of it is ready.

use std::io::{ErrorKind, Read};

use kcache::kernel::rootfs::Root;
use kcache::run::context::Context;
use kcache::run::policy::{Need, Rule};
use kcache::store::{Exposed, Site, SiteContent, SiteRule};
use serde::Deserialize;

use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::settings::Settings;
use crate::settings::choices::SITE;

/// What a builder publishes, under the root.
const FILE: &str = "/etc/kcache/site.toml";
/// Limit in bytes on that file.
const MOST: u64 = 64 << 10;

/// The file of a builder, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    policy: Vec<WrittenRule>,
    threshold: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    package: Option<String>,
    kernel: Option<String>,
    is: String,
}

/// What this host publishes as a builder; `None` if it has no such file.
pub fn published(root: &Root) -> Result<Option<SiteContent>, Failure> {
    let file = match root.open(FILE) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let path = root.place(FILE)?;
    if let Some(exposed) = Exposed::find(&path, &file.metadata()?) {
        return Err(Failure { exit: Exit::Refused, message: exposed.to_string(), hint: None });
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    let contents = parse(&text);
    contents.map(Some).map_err(|why| Failure::usage(format!("{}: {why}", path.display()), None))
}

fn parse(text: &str) -> Result<SiteContent, String> {
    let Written { packages, policy, threshold } =
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
    let all = || "*".to_owned();
    let rule = |WrittenRule { package, kernel, is }: WrittenRule| match Need::of_word(&is) {
        Some(_) => {
            Ok(SiteRule { package: package.unwrap_or_else(all), kernel: kernel.unwrap_or_else(all), is })
        }
        None => Err(format!("invalid policy '{is}': must be required, optional or ignore")),
    };
    let policy = policy.into_iter().map(rule).collect::<Result<_, _>>()?;
    let contents = SiteContent { packages, policy, threshold };
    contents.check().map(|()| contents)
}

/// Puts the site's packages and policy in the place of the word. `asks`: the caches are asked for a newer file.
pub fn apply(settings: &Settings, out: &Out, context: &mut Context, asks: bool) -> Result<(), Failure> {
    if !context.elsewhere.wanted.iter().any(|name| name == SITE) {
        return Ok(());
    }
    context.elsewhere.wanted.retain(|name| name != SITE);
    let now = context.now();
    let site = match context.open_existing_store()? {
        store if asks && !context.caches().is_empty() => {
            let store = store.map_or_else(|| context.open_store(), Ok)?;
            context.caches().site(&store, context.roll_back, now)?
        }
        Some(store) => context.caches().accepted_site(&store, now)?,
        None => None,
    };
    match site {
        Some(site) => follow(settings, out, context, &site),
        None => context.elsewhere.unresolved = Some(lack(context)),
    }
    Ok(())
}

fn follow(settings: &Settings, out: &Out, context: &mut Context, site: &Site) {
    let SiteContent { packages, policy, threshold } = site.contents();
    let wanted = &mut context.elsewhere.wanted;
    for name in packages {
        if !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    let rule = |rule: &SiteRule| {
        let need = Need::of_word(&rule.is)?;
        Some(Rule { package: rule.package.clone(), kernel: rule.kernel.clone(), need })
    };
    let rules = &mut context.policy.rules;
    rules.splice(0..0, policy.iter().filter_map(rule));
    let own = settings.threshold.value;
    if let Some(threshold) = threshold.filter(|&threshold| threshold as usize > own) {
        out.hint(&format!("the site's builds have {threshold} signatures: set `threshold = {threshold}`"));
    }
}

/// Why there is no site file, in a line that says what to do.
fn lack(context: &Context) -> String {
    let caches = context.caches();
    let why = if caches.trust().keys().next().is_none() {
        "no key is trusted (`kcache keys trust FILE`)"
    } else if caches.have_distrusted(&kcache::store::transport::Name::Site) {
        "that of the cache is not signed by a trusted key (`kcache keys trust FILE`)"
    } else if caches.have_answered() {
        "no shared cache has one (docs/fleet.md: the site file)"
    } else {
        "none was fetched or imported yet (`kcache install`, `kcache import`)"
    };
    format!("packages = \"{SITE}\": no site file is known: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_builder_is_read_strictly() {
        let contents = parse("packages = ['zfs']\nthreshold = 2\n[[policy]]\nis = 'optional'\n").unwrap();
        let rule = SiteRule { package: "*".into(), kernel: "*".into(), is: "optional".into() };
        assert_eq!(
            (contents.packages, contents.policy, contents.threshold),
            (vec!["zfs".into()], vec![rule], Some(2))
        );
        for text in
            ["package = ['zfs']", "packages = ['@site']", "[[policy]]\nis = 'nice'", "packages = 'zfs'"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
