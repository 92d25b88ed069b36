//! HTML that untrusted text cannot break: text and attribute values are escaped when they are inserted, and there is no other
//! way to insert any. Names of elements and attributes, and the style, are kcache's own.

use std::fmt::{self, Write};

/// An element in the making: what is put in is rendered at once.
#[derive(Debug)]
pub struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

/// An empty element.
pub fn element(name: &'static str) -> Element {
    Element { name, attributes: String::new(), content: String::new() }
}

impl Element {
    /// Adds an attribute.
    pub fn with(mut self, name: &'static str, value: &str) -> Element {
        let _ = write!(self.attributes, " {name}=\"{}\"", escaped(value)); // a String takes everything
        self
    }

    pub fn class(self, value: &str) -> Element {
        self.with("class", value)
    }

    /// Adds text, escaped.
    pub fn text(mut self, text: &str) -> Element {
        self.content += &escaped(text);
        self
    }

    /// Adds an element.
    pub fn child(mut self, child: Element) -> Element {
        let _ = write!(self.content, "{child}");
        self
    }

    /// Adds elements.
    pub fn children(self, children: impl IntoIterator<Item = Element>) -> Element {
        children.into_iter().fold(self, Element::child)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Element { name, attributes, content } = self;
        write!(f, "<{name}{attributes}>{content}</{name}>")
    }
}

/// A whole page. Its policy lets nothing be loaded or run, whatever else may have gone wrong.
pub fn document(title: &str, style: &'static str, body: &Element) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n{}\n<style>\n{style}</style>\n</head>\n{body}\n</html>\n",
        element("title").text(title)
    )
}

/// A text as it is written in content and in quoted values. What HTML cannot hold, and what would turn the direction of the
/// text around it, becomes a mark that something was there.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(element: Element, expect: &str) {
        assert_eq!(element.to_string(), expect);
    }

    #[test]
    fn elements_nest_in_the_order_in_which_they_are_put_in() {
        let items = ["a", "b"].map(|text| element("li").text(text));
        check(element("ul").class("x").children(items), "<ul class=\"x\"><li>a</li><li>b</li></ul>");
        check(element("p").text("a").child(element("b").text("c")).text("d"), "<p>a<b>c</b>d</p>");
    }

    #[test]
    fn no_text_becomes_markup() {
        check(
            element("p").text("</p><script>alert('x')</script>&amp;"),
            "<p>&lt;/p&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;</p>",
        );
        check(element("p").with("title", "\" onclick=\"x"), "<p title=\"&quot; onclick=&quot;x\"></p>");
        let page = document("</title><script>", "", &element("body"));
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn what_steers_a_reader_leaves_a_mark() {
        check(element("p").text("a\0\x1b[31m\u{202e}b\nc"), "<p>a\u{fffd}\u{fffd}[31m\u{fffd}b\nc</p>");
    }
}
