//! Vector graphics and what becomes of them: words in the embedded font, and pixels.

use std::sync::{Arc, LazyLock};

use image::{Rgb, RgbImage};
use resvg::{
    tiny_skia::{Color, Pixmap},
    usvg::{Options, Transform, Tree, fontdb::Database},
};

use crate::{Error, Result};

/// The font of all words; a program that shows an SVG file without it takes one of its own.
pub(super) const FONT: &str = "Ubuntu, sans-serif";

/// The color of words.
const INK: &str = "#333";

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.set_sans_serif_family("Ubuntu");
    Arc::new(fonts)
});

/// An SVG file of this size.
pub(super) fn document(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"{FONT}\" \
         fill=\"{INK}\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>{body}</svg>"
    )
}

/// A line of words with its baseline at a place; `anchor` is `start`, `middle` or `end`.
pub(super) fn text(words: &str, (x, y): (f64, f64), size: f64, anchor: &str) -> String {
    let words = clean(words).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

/// Words of any origin without the characters that no XML file may hold.
pub(super) fn clean(words: &str) -> String {
    words.replace(|c: char| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}'), "\u{FFFD}")
}

/// At most so many characters of words.
pub(super) fn shortened(words: &str, most: usize) -> String {
    match words.char_indices().nth(most) {
        Some(_) => words.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => words.to_owned(),
    }
}

/// How wide words are when set in this size.
pub(super) fn text_width(words: &str, size: f64) -> Result<f64> {
    let tree = parse(&document(1.0, 1.0, &text(words, (0.0, 0.0), size, "start")))?;
    let right = |node: &resvg::usvg::Node| f64::from(node.abs_bounding_box().right());
    let texts = tree.root().children().iter().filter(|node| matches!(node, resvg::usvg::Node::Text(_)));
    Ok(texts.map(right).fold(0.0, f64::max))
}

/// The pixels of an SVG file.
pub(super) fn rasterize(svg: &str) -> Result<RgbImage> {
    let tree = parse(svg)?;
    let (width, height) = (tree.size().width().round() as u32, tree.size().height().round() as u32);
    let mut pixmap = Pixmap::new(width, height)
        .ok_or_else(|| Error::new(format!("a picture of {width}x{height} pixels is too large to draw")))?;
    pixmap.fill(Color::WHITE);
    resvg::render(&tree, Transform::identity(), &mut pixmap.as_mut());
    let pixels = pixmap.pixels();
    Ok(RgbImage::from_fn(width, height, |x, y| {
        let pixel = pixels[(y * width + x) as usize];
        Rgb([pixel.red(), pixel.green(), pixel.blue()])
    }))
}

fn parse(svg: &str) -> Result<Tree> {
    let options = Options { fontdb: Arc::clone(&FONTS), font_family: "Ubuntu".into(), ..Options::default() };
    Tree::from_str(svg, &options).map_err(|error| Error::new(format!("the picture cannot be drawn: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_origin_are_set() {
        for words in ["cat", "a < b & c", "\u{0}\u{1b}[31m\n", "猫 🐈", "", "]]>", "\u{FFFF}"] {
            rasterize(&document(60.0, 20.0, &text(words, (2.0, 15.0), 14.0, "start"))).unwrap();
            text_width(words, 14.0).unwrap();
        }
        assert!(text_width("mmmm", 14.0).unwrap() > 2.0 * text_width("ii", 14.0).unwrap());
        let dark = |words| {
            let picture = rasterize(&document(60.0, 20.0, &text(words, (2.0, 15.0), 14.0, "start"))).unwrap();
            picture.pixels().filter(|pixel| pixel[0] < 150).count()
        };
        assert!(dark("cat") > 20 && dark("") == 0);
    }

    #[test]
    fn long_words_are_shortened() {
        assert_eq!(shortened("cat", 3), "cat");
        assert_eq!(shortened("cathedral", 4), "cat…");
        assert_eq!(shortened("äöü", 3), "äöü");
    }
}
