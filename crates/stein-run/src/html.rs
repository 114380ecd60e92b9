//! A report as one HTML file that can be mailed: pictures are inside it, and nothing is fetched or run.

use std::fmt::{self, Display};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

/// A part of a report.
#[derive(Debug, Clone)]
pub enum Section {
    /// A heading over the parts that follow.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A table; cells that are numbers are set to the right.
    Table {
        /// The names of the columns.
        header: Vec<String>,
        /// The cells, row by row.
        rows: Vec<Vec<String>>,
    },
    /// A picture.
    Picture {
        /// What it shows, for those who do not see it.
        name: String,
        /// The file.
        bytes: Vec<u8>,
        /// The kind of file, such as `image/png`.
        mime: String,
        /// The words under it; may be empty.
        caption: String,
    },
}

/// The report as an HTML document.
pub fn report(title: &str, sections: &[Section]) -> String {
    let body: String = sections.iter().map(ToString::to_string).collect();
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}

impl Display for Section {
    /// The part as HTML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heading(words) => writeln!(f, "<h2>{}</h2>", escape(words)),
            Self::Text(words) => writeln!(f, "<p>{}</p>", escape(words)),
            Self::Table { header, rows } => {
                // A column is one of numbers if its first cell is, so that its header can stand over them.
                let numeric = |column| rows.first().and_then(|row| row.get(column)).is_some_and(is_number);
                writeln!(f, "<div class=\"wide\"><table>\n<thead><tr>")?;
                for (column, name) in header.iter().enumerate() {
                    cell(f, "th", name, numeric(column))?;
                }
                writeln!(f, "</tr></thead>\n<tbody>")?;
                for row in rows {
                    write!(f, "<tr>")?;
                    row.iter().try_for_each(|value| cell(f, "td", value, is_number(value)))?;
                    writeln!(f, "</tr>")?;
                }
                writeln!(f, "</tbody>\n</table></div>")
            }
            Self::Picture { name, bytes, mime, caption } => {
                let (name, mime, data) = (escape(name), escape(mime), Base64Display::new(bytes, &STANDARD));
                write!(f, "<figure><img src=\"data:{mime};base64,{data}\" alt=\"{name}\">")?;
                if !caption.is_empty() {
                    write!(f, "<figcaption>{}</figcaption>", escape(caption))?;
                }
                writeln!(f, "</figure>")
            }
        }
    }
}

fn cell(f: &mut fmt::Formatter<'_>, tag: &str, words: &str, number: bool) -> fmt::Result {
    let class = if number { " class=\"number\"" } else { "" };
    write!(f, "<{tag}{class}>{}</{tag}>", escape(words))
}

/// Whether a cell is a number, perhaps with a unit or an uncertainty after it.
fn is_number(cell: impl AsRef<str>) -> bool {
    cell.as_ref().split_whitespace().next().is_some_and(|word| word.parse::<f64>().is_ok())
}

/// The text with the five characters replaced that mean something in HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: light-dark(#202124, #e4e4e7); --quiet: light-dark(#5f6368, #a1a1aa);
  --rule: light-dark(#e3e5e8, #3a3a40); --paper: light-dark(#ffffff, #18181b); }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
p { max-width: 42rem; margin: 0.75rem 0; white-space: pre-line; overflow-wrap: break-word; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 1.5rem 0.35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { max-width: 42rem; margin-top: 0.5rem; color: var(--quiet); font-size: 0.9rem; }
@media print { h2, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_everywhere() {
        let evil = || "<script>\"&'".to_string();
        let picture = Section::Picture { name: evil(), bytes: b"Stein".to_vec(), mime: evil(), caption: evil() };
        let table = Section::Table { header: vec![evil()], rows: vec![vec![evil()]] };
        let page = report(&evil(), &[Section::Heading(evil()), Section::Text(evil()), table, picture]);
        assert!(!page.contains("<script>"));
        assert_eq!(page.matches("&lt;script&gt;&quot;&amp;&#39;").count(), 9);
    }

    #[test]
    fn pictures_are_inside_and_numbers_to_the_right() {
        let mime = "image/png".to_string();
        let picture = Section::Picture { name: "a".into(), bytes: b"Stein".to_vec(), mime, caption: String::new() };
        assert!(picture.to_string().contains("src=\"data:image/png;base64,U3RlaW4=\" alt=\"a\""));
        let rows = vec![vec!["ddim".to_string(), "1.5 ± 0.1".to_string()]];
        let table = Section::Table { header: vec!["sampler".into(), "FID".into()], rows }.to_string();
        assert!(table.contains("<th class=\"number\">FID</th>") && table.contains("<td>ddim</td>"));
    }
}
