//! Kernel releases: their order, and matching them against patterns.
//!
//! A release is what `uname -r` prints: `6.1.0-56-amd64`, `6.12.117+deb12-amd64`, `6.13.0-rc4`,
//! `6.12.10-200.fc41.x86_64`. There is no standard for their order. This one is what an administrator expects of a
//! list of kernels: numbers are compared numerically (`6.1.0-9` before `6.1.0-10`, both before `6.12`), a release
//! candidate comes before its release, and a package revision (`-5`) comes before a further stable update (`.4`).
//!
//! The order is total and only equal texts are equal, so a sorted list of kernels is the same on every host.

use std::cmp::Ordering;

/// Whether a text can be a release. Releases become part of paths, and users type them into shells. Kernels' consist
/// of letters, digits and some of `._+~:@,=-`; a tree from an untrusted source may contain others, such as `../x` and
/// `$(x)`.
pub fn is_plain(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+~:@,=-".contains(c);
    !text.is_empty() && text.len() <= LONGEST && !text.starts_with(['.', '-']) && text.chars().all(good)
}

/// Limit in bytes: uname(2) has room for 64 (`__NEW_UTS_LEN`), a file name for 255.
const LONGEST: usize = 128;

/// Compares two releases; the older one is less.
pub fn compare(a: &str, b: &str) -> Ordering {
    let mut left = Pieces(a.as_bytes());
    let mut right = Pieces(b.as_bytes());
    loop {
        match (left.next(), right.next()) {
            (Piece::End, Piece::End) => return a.cmp(b),
            (l, r) if l != r => return l.cmp(&r),
            _ => {}
        }
    }
}

/// Whether a release matches a shell pattern: `*`, `?`, `[a-z]`, `[!a-z]`. The whole release must match. An unclosed
/// `[` is literal, as in a shell.
pub fn matches(glob: &str, release: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), release.as_bytes());
    let (mut g, mut t) = (0, 0);
    // Position at which to continue when the text after the last `*` does not match. Only the last one ever needs
    // another attempt, so the work is at most the product of the lengths.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if glob.get(g) == Some(&b'*') {
            retry = Some((g + 1, t));
            g += 1;
        } else if let Some(width) = one(&glob[g..], text[t]) {
            g += width;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            (g, t) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

/// A comparable piece of a release. The order of the variants is the order of pieces: a release candidate precedes the
/// end of the text, which precedes everything else.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    Candidate(Word<'a>),
    End,
    Part(Joint, Word<'a>),
}

/// The separator before a piece: `.` continues the upstream version, everything else begins a packager's suffix.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Joint {
    None,
    Suffix,
    Dot,
}

/// Letters precede numbers, so `6.12-arch1` is older than `6.12.1-arch1`. Numbers are kept as digits without leading
/// zeros: the longer one is greater, and none overflows.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Word<'a> {
    Letters(&'a [u8]),
    Number(usize, &'a [u8]),
}

struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    fn next(&mut self) -> Piece<'a> {
        let separators = self.take(|c| !c.is_ascii_alphanumeric());
        if self.0.is_empty() {
            return Piece::End;
        }
        let word = self.word();
        // Debian writes `6.12~rc4`, upstream `6.12.0-rc4`.
        if separators.ends_with(b"~") || word == Word::Letters(b"rc") {
            return Piece::Candidate(word);
        }
        let joint = match separators.last() {
            None => Joint::None,
            Some(b'.') => Joint::Dot,
            Some(_) => Joint::Suffix,
        };
        Piece::Part(joint, word)
    }

    fn word(&mut self) -> Word<'a> {
        let letters = self.take(|c| c.is_ascii_alphabetic());
        if !letters.is_empty() {
            return Word::Letters(letters);
        }
        let digits = self.take(|c| c.is_ascii_digit());
        let zeros = digits.iter().take_while(|&&c| c == b'0').count();
        Word::Number(digits.len() - zeros, &digits[zeros..])
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

/// Length of the first element of a pattern, if it accepts `c`.
fn one(glob: &[u8], c: u8) -> Option<usize> {
    match *glob.first()? {
        b'?' => Some(1),
        b'[' => match class(glob, c) {
            Some((true, width)) => Some(width),
            Some((false, _)) => None,
            None => (c == b'[').then_some(1),
        },
        literal => (literal == c).then_some(1),
    }
}

/// Parses a `[...]` at the start of a pattern: whether it accepts `c`, and its length. `None` if it is not closed.
fn class(glob: &[u8], c: u8) -> Option<(bool, usize)> {
    let negated = matches!(glob.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A `]` in first position is a member, not the end.
    let end = first + 1 + glob.get(first + 1..)?.iter().position(|&x| x == b']')?;
    let mut members = &glob[first..end];
    let mut found = false;
    while let Some((&low, rest)) = members.split_first() {
        members = rest;
        let mut high = low;
        if let [b'-', to, rest @ ..] = members {
            high = *to;
            members = rest;
        }
        found |= (low..=high).contains(&c);
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(sorted: &[&str]) {
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
    }

    #[test]
    fn numbers_count_as_numbers() {
        check(&["5.10.0-9-amd64", "6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.1-amd64", "10.0.0"]);
    }

    #[test]
    fn candidates_come_before_their_release() {
        check(&["6.12.117", "6.13~rc1", "6.13-rc2", "6.13-rc10", "6.13", "6.13.0-rc1", "6.13.0", "6.13.1"]);
    }

    #[test]
    fn a_package_revision_weighs_less_than_a_stable_update() {
        check(&["6.12-arch1-1", "6.12-5", "6.12.4-arch1-1", "6.12.4-arch2-1"]);
    }

    #[test]
    fn flavours_of_one_version_are_adjacent() {
        check(&["6.1.0-55-cloud-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.1.0-57-amd64"]);
    }

    #[test]
    fn leading_zeros_and_long_numbers_are_compared() {
        check(&[
            "6.1",
            "6.01.1",
            "6.1.2",
            "6.1.99999999999999999999999998",
            "6.1.99999999999999999999999999",
        ]);
    }

    #[test]
    fn patterns_match_like_a_shells() {
        for (glob, release, expect) in [
            ("*", "6.1.0-56-amd64", true),
            ("", "", true),
            ("", "6", false),
            ("6.1.*", "6.1.0-56-amd64", true),
            ("6.1.*", "6.12.0", false),
            ("*-amd64", "6.1.0-56-cloud-amd64", true),
            ("*-56-*64", "6.1.0-56-cloud-amd64", true),
            ("6.1.0-5?-amd64", "6.1.0-56-amd64", true),
            ("6.1.0-5?-amd64", "6.1.0-5-amd64", false),
            ("6.1.0-[0-9][5-6]-amd64", "6.1.0-56-amd64", true),
            ("6.1.0-5[!6]-amd64", "6.1.0-56-amd64", false),
            ("6.1.0-5[]6]", "6.1.0-5]", true),
            ("6.1.0-5[6", "6.1.0-5[6", true),
            ("6.1.0-56-amd64", "6.1.0-56-amd64", true),
        ] {
            assert_eq!(matches(glob, release), expect, "{glob} against {release}");
        }
    }

    #[test]
    fn many_stars_are_matched_quickly() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-z.~+-]{0,8}", b in "[0-9a-z.~+-]{0,8}", c in "[0-9a-z.~+-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b) == Ordering::Equal, a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }

        #[test]
        fn any_pattern_gives_a_result(glob in any::<String>(), release in any::<String>()) {
            matches(&glob, &release);
        }
    }
}
