//! A report as one HTML file that can be mailed: pictures are inside it, and nothing is fetched or run.

use askama::Template;
use base64::display::Base64Display;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};

use crate::{Error, Result};

/// A part of a report.
#[derive(Debug, Clone)]
pub enum Section {
    /// A heading over the parts that follow.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// Text as it stands in a file.
    Code(String),
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
///
/// # Errors
/// None that depends on what is in it.
pub fn report(title: &str, sections: &[Section]) -> Result<String> {
    Page { title, sections }.render().map_err(|error| Error::new(format!("the report cannot be written: {error}")))
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: &'a str,
    sections: &'a [Section],
}

impl Page<'_> {
    fn base64(bytes: &[u8]) -> Base64Display<'_, 'static, GeneralPurpose> {
        Base64Display::new(bytes, &STANDARD)
    }

    fn class(number: bool) -> &'static str {
        if number { " class=\"number\"" } else { "" }
    }

    /// A column is one of numbers if its first cell is, so that its header can stand over them.
    fn is_column_of_numbers(rows: &[Vec<String>], column: &usize) -> bool {
        rows.first().and_then(|row| row.get(*column)).is_some_and(|cell| Self::is_number(cell))
    }

    /// Whether a cell is a number, perhaps with a unit or an uncertainty after it.
    fn is_number(cell: &str) -> bool {
        cell.split_whitespace().next().is_some_and(|word| word.parse::<f64>().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_everywhere() {
        let evil = || "<script>\"&'".to_string();
        let picture = Section::Picture { name: evil(), bytes: b"Stein".to_vec(), mime: evil(), caption: evil() };
        let table = Section::Table { header: vec![evil()], rows: vec![vec![evil()]] };
        let words = [Section::Heading(evil()), Section::Text(evil()), Section::Code(evil())];
        let page = report(&evil(), &[&words[..], &[table, picture]].concat()).unwrap();
        assert!(!page.contains("<script>"));
        // Read as a browser reads it, every place has the words as they were: title, h1, h2, p, pre, th, td, caption and the name.
        let page = page.replace("<!DOCTYPE html>", "");
        let page = page.lines().filter(|line| !line.contains("<meta")).collect::<Vec<_>>().join("\n");
        let (start, end) = (page.find("<style>").unwrap(), page.find("</style>").unwrap());
        let page = format!("{}{}", &page[..start], &page[end + 8..]).replace("\"><figcaption", "\"/><figcaption");
        let tree = roxmltree::Document::parse(&page).unwrap();
        let texts = tree.descendants().filter(|node| node.is_text() && node.text() == Some(&evil())).count();
        let names = tree.descendants().filter(|node| node.attribute("alt") == Some(&evil())).count();
        assert_eq!((texts, names), (8, 1), "{page}");
    }

    #[test]
    fn pictures_are_inside_and_numbers_to_the_right() {
        let mime = "image/png".to_string();
        let picture = Section::Picture { name: "a".into(), bytes: b"Stein".to_vec(), mime, caption: String::new() };
        let rows = vec![vec!["ddim".to_string(), "1.5 \u{b1} 0.1".to_string()]];
        let table = Section::Table { header: vec!["sampler".into(), "FID".into()], rows };
        let page = report("a", &[picture, table]).unwrap();
        assert!(page.contains("src=\"data:image/png;base64,U3RlaW4=\" alt=\"a\""), "{page}");
        assert!(page.contains("<th class=\"number\">FID</th>") && page.contains("<td>ddim</td>"), "{page}");
        // Nothing is fetched, and it suits a phone and the dark.
        assert!(
            !page.contains("http") && page.contains("name=\"viewport\"") && page.contains("prefers-color-scheme: dark")
        );
    }
}
