use kcache::inputs::change::InputChange;
use kcache::kernel::install::ModulesDir;
use kcache::kernel::kernels::{Headers, Kernel};
use kcache::kernel::packages::Package;
use kcache::run::policy::Need;
use kcache::verdict::provenance::Made;
use kcache::verdict::state::Foreign;
use kcache::verdict::state::Standing;

use super::*;

const HOSTILE: &str =
    "</td></pre></style><script>alert(1)</script><img src=x onerror='alert(1)'>\" onclick=\"x";

fn kernel(release: &str) -> Kernel {
    let modules = Some(ModulesDir::new(format!("/lib/modules/{release}"), release));
    Kernel {
        release: release.to_owned(),
        modules,
        headers: Headers::Missing { leads_to: None },
        image_version: None,
        is_leftover: false,
    }
}

fn standing(state: State, reason: Option<&str>) -> Standing {
    let reason = reason.map(str::to_owned);
    Standing {
        state,
        version: String::new(),
        reason,
        changed: Vec::new(),
        tools_changed: Vec::new(),
        built: false,
        modules: Default::default(),
        need: Need::Required,
    }
}

fn verdict<'a>(kernel: &'a Kernel, standings: &[Standing]) -> Verdict<'a> {
    Verdict {
        kernel,
        ready: !standings.iter().any(Standing::blocks),
        generation: None,
        signer: None,
        standings: standings.to_vec(),
        foreign: Vec::new(),
        warnings: Vec::new(),
        details: Vec::new(),
    }
}

/// A page about one kernel, which is that of the next boot.
fn page<'a>(survey: &'a Survey<'a>) -> Page<'a> {
    Page {
        host: "web1",
        system: None,
        now: 0,
        running: "",
        default: survey.verdicts.first().map_or(Err("no loader".into()), |v| Ok(v.kernel.release.clone())),
        survey,
        complete: true,
        unreadable: Vec::new(),
        failures: BTreeMap::new(),
        origins: survey.verdicts.iter().map(|_| Vec::new()).collect(),
        caches: Vec::new(),
        usage: Usage::default(),
        counts: BTreeMap::new(),
    }
}

/// Draws a page about one kernel `K` and the packages `a`, `b` ... in these states.
fn drawn(standings: &[Standing], change: impl FnOnce(&mut Page)) -> String {
    let kernel = kernel("K");
    let packages = ["a", "b", "c", "d", "e", "f", "g", "h"].map(Package::elsewhere);
    let survey = Survey {
        packages: packages[..standings.len()].to_vec(),
        verdicts: vec![verdict(&kernel, standings)],
    };
    let mut page = page(&survey);
    change(&mut page);
    render(&page)
}

#[track_caller]
fn has(html: &str, expect: &[&str]) {
    for text in expect {
        assert!(html.contains(text), "no {text} in {html}");
    }
}

#[test]
fn each_state_has_a_sign_and_a_word_and_a_link_to_its_reason() {
    let standings = State::ALL.map(|state| standing(state, Some("because")));
    let html = drawn(&standings, |_| ());
    for (at, state) in State::ALL.into_iter().enumerate() {
        let [sign, word] = super::state(state).map(|element| element.to_string());
        let place = place(0, at);
        has(
            &html,
            &[
                &format!("<td class=\"{}\"><a href=\"#{place}\">{sign}{word}", state.word()),
                &format!("<article class=\"why\" id=\"{place}\">"),
            ],
        );
    }
}

#[test]
fn the_sentence_at_the_top_is_about_the_kernel_that_will_be_booted() {
    let ready = [standing(State::Ready, None)];
    let fails = standing(State::Fails, Some("error: no"));
    has(&drawn(&ready, |_| ()), &["banner good", "You may reboot<", "The boot loader starts K, and all"]);
    has(
        &drawn(&[ready[0].clone(), fails.clone()], |_| ()),
        &["banner bad", "Do not reboot yet<", "starts K. Fails: b."],
    );
    let optional = Standing { need: Need::Optional, ..fails };
    has(&drawn(&[optional], |_| ()), &["banner good", "<span class=\"need\">optional</span>"]);
    let unreadable = |page: &mut Page| page.unreadable.push("dkms.conf: no name".to_owned());
    has(&drawn(&ready, unreadable), &["banner bad", "A package cannot be read: dkms.conf: no name"]);
    let unknown = |page: &mut Page| page.default = Err("no loader".to_owned());
    has(
        &drawn(&ready, unknown),
        &["banner odd", "1 of 1 kernel is ready", "which one will be booted: no loader"],
    );
    let gone = |page: &mut Page| page.default = Ok("L".to_owned());
    has(&drawn(&ready, gone), &["banner bad", "starts L, which is not installed"]);
    let elsewhere = |page: &mut Page| (page.default, page.complete) = (Ok("L".to_owned()), false);
    has(&drawn(&ready, elsewhere), &["banner odd", "starts L, which this report does not include"]);
}

#[test]
fn no_text_from_elsewhere_becomes_markup_wherever_it_stands() {
    let kernel = kernel(HOSTILE);
    let survey = Survey {
        packages: vec![Package { version: HOSTILE.to_owned(), ..Package::elsewhere(HOSTILE) }],
        verdicts: vec![Verdict {
            foreign: vec![Foreign { path: HOSTILE.to_owned(), fault: Some(HOSTILE.to_owned()) }],
            warnings: vec![HOSTILE.to_owned()],
            ..verdict(
                &kernel,
                &[Standing {
                    changed: vec![InputChange::Other(HOSTILE.to_owned())],
                    ..standing(State::Fails, Some(HOSTILE))
                }],
            )
        }],
    };
    let failure =
        Failure { command: HOSTILE.to_owned(), status: Some(1), log: HOSTILE.to_owned(), left_out: 3 };
    let made = Made {
        builder: HOSTILE.to_owned(),
        here: false,
        signers: vec![HOSTILE.to_owned()],
        seconds: None,
        created: 0,
    };
    let origin = Origin {
        package: HOSTILE.to_owned(),
        version: HOSTILE.to_owned(),
        modules: 1,
        bytes: 1,
        made: Some(made),
    };
    let html = render(&Page {
        host: HOSTILE,
        system: Some(HOSTILE.to_owned()),
        unreadable: vec![HOSTILE.to_owned()],
        failures: [((0, 0), failure)].into(),
        origins: vec![vec![origin]],
        caches: vec![Cache { url: HOSTILE.to_owned(), write: true }],
        ..page(&survey)
    });
    assert!(html.matches("&lt;script&gt;").count() > 15, "{html}");
    for markup in ["<script", "<img", "onerror='", "\" onclick"] {
        assert!(!html.contains(markup), "{markup} in {html}");
    }
    assert_eq!((html.matches("</style>").count(), html.matches("<td ").count()), (1, 1));
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = drawn(&[standing(State::Ready, None)], |_| ());
    for loads in ["<script", "<link", "<img", "src=", "url(", "@import", "http:", "https:"] {
        assert!(!html.contains(loads), "{loads}");
    }
}

#[test]
fn a_host_without_anything_has_a_page() {
    let survey = Survey { packages: Vec::new(), verdicts: Vec::new() };
    let html = render(&page(&survey));
    has(&html, &["No kernel is installed", "0 of 0 kernels are ready", "<p class=\"figure\">0.0 s</p>"]);
    assert!(!html.contains("-0.0"), "{html}");
}

#[test]
fn what_has_changed_is_a_list_and_a_failure_has_its_log() {
    let changed = vec![InputChange::Source, InputChange::Headers];
    let stale = Standing { changed, ..standing(State::Stale, Some("changed: source, kernel.headers")) };
    let html = drawn(&[stale, standing(State::Fails, Some("error: no"))], |page| {
        let failure = Failure { command: "make".into(), status: Some(2), log: "a < b".into(), left_out: 7 };
        page.failures.insert((0, 1), failure);
    });
    has(
        &html,
        &["Inputs have changed since", "<li><code>source</code></li><li><code>kernel.headers</code></li>"],
    );
    has(
        &html,
        &["after 7 lines", "<code>make</code> exited with status 2", "<pre tabindex=\"0\">a &lt; b</pre>"],
    );
}

#[test]
fn builds_are_distinguished_by_their_builder() {
    let origin = |builder: &str, here| Origin {
        package: "a".to_owned(),
        version: "1".to_owned(),
        modules: 2,
        bytes: 1500,
        made: Some(Made {
            builder: builder.to_owned(),
            here,
            signers: Vec::new(),
            seconds: Some(30.0),
            created: 0,
        }),
    };
    let html = drawn(&[standing(State::Ready, None)], |page| {
        let signed = |mut origin: Origin| {
            origin.made.iter_mut().for_each(|made| made.signers.push("fleet".to_owned()));
            origin
        };
        let unknown = Origin { made: None, ..origin("", false) };
        page.origins = vec![vec![
            origin("web1", true),
            signed(origin("ci", false)),
            signed(origin("ci", false)),
            unknown,
        ]];
        page.counts = [("hits-store", 1), ("hits-shared", 2), ("misses", 1), ("milliseconds-spared", 95_000)]
            .map(|(name, count)| (name.to_owned(), count))
            .into();
    });
    has(
        &html,
        &[
            "web1 (this host)</th><td>unsigned</td><td>1</td><td>30 s",
            "ci</th><td>fleet</td><td>2</td><td>1 min 00 s",
        ],
    );
    has(&html, &["no longer has the entry</th><td></td><td>1<", "8 modules for 1 kernel", "6.0 kB"]);
    has(&html, &["1 min 35 s", "75 %", "1 by the store, 2 by shared caches, 1 misses"]);
}

#[test]
fn a_reason_stands_once_by_package_with_what_to_do_and_optional_ones_last_and_calm() {
    let kernels = [kernel("K"), kernel("L")];
    let optional = Standing { need: Need::Optional, ..standing(State::Fails, Some("error: calm")) };
    let each =
        [optional, standing(State::Fails, Some("error: loud")), standing(State::Missing, Some("not there"))];
    let survey = Survey {
        packages: ["a", "b", "c"].map(Package::elsewhere).to_vec(),
        verdicts: kernels.iter().map(|kernel| verdict(kernel, &each)).collect(),
    };
    let html = render(&page(&survey));
    for reason in ["error: calm", "error: loud", "not there"] {
        assert_eq!(html.matches(reason).count(), 1, "{reason} in {html}");
    }
    let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text} in {html}"));
    assert!(at("error: loud") < at("not there") && at("not there") < at("error: calm"), "{html}");
    has(
        &html,
        &[
            "<td class=\"fails optional\">",
            "<span class=\"chip fails optional\">",
            "<h4>K, L</h4>",
            "<code>kcache log b -k K</code>",
            "<code>kcache install -k K -k L</code>",
            // In the card of each kernel.
            "<li><code>kcache install -k L</code></li>",
        ],
    );
    // Every cell leads to its reason.
    for place in (0..2).flat_map(|kernel| (0..3).map(move |package| place(kernel, package))) {
        assert_eq!(html.matches(&format!("id=\"{place}\"")).count(), 1, "{place}");
    }
}
