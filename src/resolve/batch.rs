//! Resolves all requests of a run: as many at once as there are jobs, and again if a cache was too slow.

use std::time::{Duration, Instant};

use kcache_store::Manifest;

use crate::error::Result;
use crate::resolve;
use crate::resolve::publish;
use crate::resolve::reproduce::{self, Comparison};
use crate::resolve::resolution::Resolution;
use crate::resolve::schedule;
use crate::run::request::{Options, Request, Source};
use crate::run::session::Session;

/// Which builds are made once more, and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// None.
    Never,
    /// Those that were found, in the store or a cache.
    Found,
    /// All.
    Always,
}

impl Again {
    fn applies_to(self, found: &Source) -> bool {
        match self {
            Again::Never => false,
            Again::Found => *found != Source::Built,
            Again::Always => true,
        }
    }
}

/// What came of one request.
pub struct PackageResult<'a> {
    /// The package and the kernel.
    pub request: Request<'a>,
    /// The resolution, or why there is none.
    pub answer: Result<Resolution>,
    /// The comparison with a rebuild, if requested.
    pub comparison: Option<Comparison>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl PackageResult<'_> {
    /// The entry of its modules, if there are any, and building again has not shown others.
    pub fn manifest(&self) -> Option<&Manifest> {
        match (&self.answer, &self.comparison) {
            (Ok(Resolution::Ready { manifest, .. }), None | Some(Comparison::Same)) => Some(manifest),
            _ => None,
        }
    }
}

/// Resolves all requests; with `check`, each is built again and compared. If a host cannot build and a shared cache
/// was too slow, the cache is queried again after a pause that differs between hosts: a whole fleet may have queried
/// it at once, and the alternative is to give up. That ends with the first round without any result or, if a cache has
/// answered before, with the sixth.
pub fn obtain_all<'a>(
    session: &Session,
    requests: &[Request<'a>],
    options: &Options,
    again: Again,
) -> Vec<PackageResult<'a>> {
    let results = patiently(session, requests, options, again);
    publish::confirm(session);
    results
}

fn patiently<'a>(
    session: &Session,
    requests: &[Request<'a>],
    options: &Options,
    again: Again,
) -> Vec<PackageResult<'a>> {
    let caches = session.context.caches();
    let mut results = work(session, requests, options, again);
    let is_lacking = |result: &PackageResult| matches!(result.answer, Ok(Resolution::NoHeaders(_)));
    let (mut before, mut useless) = (usize::MAX, 0);
    loop {
        let lacking = results.iter().filter(|result| is_lacking(result)).count();
        useless = if lacking < before { 0 } else { useless + 1 };
        let too_often = useless >= if caches.have_answered() { 6 } else { 1 };
        if lacking == 0 || too_often || session.context.services.cancelled() || !caches.forgive() {
            return results;
        }
        before = lacking;
        let pause = Duration::from_millis(1000 + u64::from(session.context.number) % 4000);
        session
            .context
            .progress()
            .print(&format!("querying shared caches again in {:.0} s", pause.as_secs_f64()));
        std::thread::sleep(pause);
        for result in results.iter_mut().filter(|result| is_lacking(result)) {
            result.answer = resolve::obtain(session, &result.request, options);
        }
    }
}

/// Tries to build these; reports only what prevents finding out whether they build.
pub fn attempt(session: &Session, requests: &[Request], options: &Options) {
    for result in obtain_all(session, requests, options, Again::Never) {
        if let Err(error) = &result.answer {
            let why = crate::error::chain(error);
            session.context.progress().warn(&format!("{}: {why}", result.request.name()));
        }
    }
}

fn work<'a>(
    session: &Session,
    requests: &[Request<'a>],
    options: &Options,
    again: Again,
) -> Vec<PackageResult<'a>> {
    schedule::all(session, requests, options, |request, mut answer, took| {
        let (start, mut comparison) = (Instant::now(), None);
        if let Ok(Resolution::Ready { manifest, found }) = &answer
            && again.applies_to(found)
        {
            match reproduce::compare(session, request, manifest) {
                Ok(compared) => comparison = Some(compared),
                Err(error) => answer = Err(error),
            }
        }
        let seconds = (took + start.elapsed()).as_secs_f64();
        PackageResult { request: *request, answer, comparison, seconds }
    })
}
