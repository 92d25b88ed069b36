//! Prometheus' text format, version 0.0.4: metric families with type, help and samples.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>. Names and help texts are kcache's own; label values are
//! untrusted and escaped.

use std::fmt::Write;

/// The type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// May go up and down.
    Gauge,
    /// Only goes up, but for beginning at 0 again. Its name ends in `_total`.
    Counter,
}

/// A value with its labels.
#[derive(Clone, Debug)]
pub struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

/// A value without labels.
pub fn sample(value: impl Into<f64>) -> Sample {
    Sample { labels: Vec::new(), value: value.into() }
}

impl Sample {
    /// The same with a label more.
    pub fn with(mut self, name: &'static str, value: &str) -> Sample {
        self.labels.push((name, value.to_owned()));
        self
    }
}

/// Metrics in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Adds a family. One without samples is left out.
    pub fn family(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = Sample>,
    ) -> &mut Exposition {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
            self.line(format_args!("# HELP {name} {help}"));
            self.line(format_args!("# TYPE {name} {kind}"));
        }
        for Sample { labels, value } in samples {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            match labels.is_empty() {
                true => self.line(format_args!("{name} {value}")),
                false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
            }
        }
        self
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        let _ = writeln!(self.0, "{line}"); // a String takes everything
    }
}

/// A label's value as it is written.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, samples: Vec<Sample>, expect: &str) {
        let mut text = Exposition::default();
        text.family("a", kind, "What it is.", samples);
        assert_eq!(text.text(), expect);
    }

    #[test]
    fn a_family_has_its_help_its_type_and_a_line_for_each_sample() {
        let samples = vec![sample(1).with("k", "x"), sample(0.25).with("k", "y").with("l", "z")];
        check(
            Kind::Gauge,
            samples,
            "# HELP a What it is.\n# TYPE a gauge\na{k=\"x\"} 1\na{k=\"y\",l=\"z\"} 0.25\n",
        );
        check(Kind::Counter, vec![sample(3)], "# HELP a What it is.\n# TYPE a counter\na 3\n");
    }

    #[test]
    fn a_family_without_samples_is_left_out() {
        check(Kind::Gauge, Vec::new(), "");
    }

    #[test]
    fn a_label_cannot_end_early_or_begin_a_line() {
        let check = |value: &str, expect: &str| assert_eq!(escaped(value), expect);
        check("a\"} 1\nb{c=\"", "a\\\"} 1\\nb{c=\\\"");
        check("\\n", "\\\\n");
    }
}
